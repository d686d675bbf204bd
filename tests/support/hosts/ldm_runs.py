"""`ldm run` in a process of its own, to be disturbed: always the same jobs, so that runs can be compared."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ldm_headless import PACK_ROOT

JOBS = int(os.environ.get("LDM_FAULT_JOBS", "12"))
DEMO = PACK_ROOT / "workflows" / "api" / "demo.json"
LIMIT = 300 + 5 * JOBS  # seconds; only a test that hangs reaches it


class Run:
    """One `ldm run` of the same jobs, in a process of its own."""

    def __init__(
        self,
        out: Path,
        *servers: str,
        wait: float = 60,
        more: Sequence[str] = (),
        environment: dict[str, str] | None = None,
    ) -> None:
        self.out, self.report_path = out, out.with_suffix(".json")
        command = [sys.executable, "-P", "-m", "ldm_headless", "run", str(DEMO), "--seeds", f"0-{JOBS - 1}"]
        command += ["--set", "Noise to latent.steps=4", "--name", "{index:04}", "--wait", str(wait)]
        command += ["--out", str(out), "--report", str(self.report_path)]
        command += [part for server in servers for part in ("--server", server)] + [*more]
        self.process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, **(environment or {})},
            # A shell starts what runs in its background deaf to SIGINT, and children inherit that.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )

    def wait_for_images(self, count: int) -> None:
        deadline = time.monotonic() + LIMIT
        while len(images(self.out)) < count:
            assert self.process.poll() is None, self.process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.01)

    def end(self, status: int) -> str:
        """Wait for the end; the messages."""
        out, messages = self.process.communicate(timeout=LIMIT)
        assert self.process.returncode == status, messages
        # No traceback of ours; the host's log, when quoted, may hold its own.
        assert "/ldm_headless/" not in messages, messages
        self.paths = out.split()
        return messages

    def report(self) -> dict[str, Any]:
        return json.loads(self.report_path.read_text())


def images(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*.png"))} if folder.is_dir() else {}


def processes(word: Path) -> list[int]:
    """The processes with this word on their command line."""
    known = {path: path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline") if path.exists()}
    return [int(path.parent.name) for path, command in known.items() if str(word).encode() in command]


def is_ready(pid: int) -> bool:
    """Whether the command handles SIGTERM yet."""
    caught = re.search(r"^SigCgt:\s*(\w+)", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    return caught is not None and bool(int(caught[1], 16) >> (signal.SIGTERM - 1) & 1)
