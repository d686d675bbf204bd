"""Two `ldm run` and an `ldm generate` in one parent folder, killed at random moments and repeated until they are done.

`LDM_KILLS=200` kills them so often; the default keeps the test short.
"""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from ldm_runs import DEMO, images, is_ready

from ldm_headless import PACK_ROOT, PrivateHost

pytestmark = pytest.mark.slow
KILLS = int(os.environ.get("LDM_KILLS", "6"))
LONGEST_S = 6.0  # from the begin of its work until a kill; where a command is done before, it was not killed
LIMIT_S = 600.0  # of a round; only a test that hangs reaches it
MOST_IN_A_ROUND = 15
SEEDS, SHARD = 24, 7


@dataclass
class Work:
    """A command and where it writes; it is repeated until it ends by itself."""

    out: Path
    arguments: Sequence[str]
    process: subprocess.Popen[bytes] | None = None
    kill_at: float | None = None
    done: bool = False

    def step(self, chance: random.Random, log: Path, may_kill: bool) -> bool:
        """Start it, look whether it has ended, or kill it; whether it was killed."""
        if self.done:
            return False
        if self.process is None:
            command = [sys.executable, "-P", "-m", "ldm_headless", *self.arguments, "--out", str(self.out)]
            with log.open("wb") as stream:
                self.process = subprocess.Popen(command, stdout=stream, stderr=stream)
            self.kill_at = None
        elif self.process.poll() is not None:
            assert self.process.returncode == 0, log.read_text()
            self.done = True
        elif self.kill_at is None and is_ready(self.process.pid):
            self.kill_at = time.monotonic() + chance.uniform(0, LONGEST_S)
        elif may_kill and self.kill_at is not None and time.monotonic() > self.kill_at:
            self.end()
            return True
        return False

    def end(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None


def works(parent: Path, url: str) -> list[Work]:
    """The first run writes into the folder in which the others have theirs."""
    run = ["run", str(DEMO), "--server", url, "--set", "Noise to latent.steps=4", "--name", "{index:04}"]
    generate = ["generate", str(PACK_ROOT / "demo" / "portraits-128"), "--seeds", f"0-{SEEDS - 1}", "--steps", "2"]
    generate += ["--device", "cpu", "--format", "webdataset", "--shard-size", str(SHARD), "--batch", "2"]
    return [
        Work(parent, [*run, "--seeds", "0-5"]),
        Work(parent / "more", [*run, "--seeds", "6-9"]),
        Work(parent / "generated", generate),
    ]


def complete(parent: Path, url: str, chance: random.Random, kills: int) -> int:
    """Run all to their end, with so many kills at the most; how many there were."""
    all_, killed, deadline = works(parent, url), 0, time.monotonic() + LIMIT_S
    try:
        while not all(work.done for work in all_):
            assert time.monotonic() < deadline
            for number, work in enumerate(all_):
                killed += work.step(chance, parent.with_name(f"{number}.log"), killed < kills)
            time.sleep(0.01)
    finally:
        for work in all_:
            work.end()
    return killed


def made(parent: Path) -> dict[str, bytes]:
    """All pictures of the runs, and everything of the generation, by path; what is not complete has hidden names."""
    generated = parent / "generated"
    files = {path.relative_to(parent).as_posix(): path.read_bytes() for path in generated.rglob("*") if path.is_file()}
    found = files | images(parent) | {f"more/{name}": data for name, data in images(parent / "more").items()}
    assert list(parent.rglob(".ldm-partial*")) == []
    return found


def test_kills_side_by_side_change_no_byte(host: PrivateHost, tmp_path: Path) -> None:
    chance = random.Random(0)
    assert complete(tmp_path / "whole", host.url, chance, 0) == 0
    expected = made(tmp_path / "whole")
    assert len([name for name in expected if name.endswith(".png")]) == 10
    assert len([name for name in expected if name.endswith(".tar")]) == -(-SEEDS // SHARD)
    kills = 0
    while kills < KILLS:
        kills += complete(tmp_path / "killed", host.url, chance, min(MOST_IN_A_ROUND, KILLS - kills))
        found = made(tmp_path / "killed")
        assert {name for name in {*found, *expected} if found.get(name) != expected.get(name)} == set()
        shutil.rmtree(tmp_path / "killed")
        print(f"{kills} kills")  # noqa: T201
