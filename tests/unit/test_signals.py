"""SIGINT and SIGTERM end a command within a second, whatever it does, with 130 or 143 and without a traceback."""

from __future__ import annotations

import gzip
import json
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from conditional_models import SUPER_RESOLUTION, write_conditional_folder
from ldm_runs import is_ready
from PIL import Image
from safetensors.torch import save_file
from small_server import INFO, PNG, PROMPT, SmallServer

pytestmark = pytest.mark.slow
SECOND = 1.0
CODES = {signal.SIGINT: 130, signal.SIGTERM: 143}
HUGE = 2**36  # bytes of a file that is a hole: reading it takes a minute and more


class Situation:
    """A command in what it does for long: its files, its server, and when it has got there."""

    def __init__(self, folder: Path, server: SmallServer, model: Path) -> None:
        self.folder, self.server, self.model = folder, server, model
        self.before = 1.0  # seconds until it is in it, where nothing else tells
        (folder / "p.json").write_text(json.dumps(PROMPT))

    def run(self, *more: str, file: str = "p.json", url: str | None = "") -> list[str]:
        servers = [] if url is None else ["--server", url or self.server.url]
        return ["run", file, *servers, "--out", "out", *more]

    def parsing(self) -> list[str]:
        (self.folder / "a.json").write_text("[" + "{}," * 3_900_000 + "{}]")
        return self.run(file="a.json")

    def unpacking(self) -> list[str]:
        text = json.dumps({"1": {"class_type": "A", "inputs": {"x": [0.5] * 3_900_000}}})
        (self.folder / "a.json.gz").write_bytes(gzip.compress(text.encode(), 1))
        return self.run(file="a.json.gz")

    def table(self) -> list[str]:
        (self.folder / "t.csv").write_text("2.images\n" + "x" * 300 + "\n" + ("y\n" * 190_000))
        return self.run("--table", "t.csv")

    def planning(self) -> list[str]:
        self.before = 4
        nodes = {str(index): {"class_type": "T", "inputs": {"seed": 3, "text": "x" * 50}} for index in range(300)}
        nodes["S"] = {"class_type": "SaveImage", "inputs": {"images": ["0", 0]}}
        kind = {"input": {"required": {"seed": ["INT", {}], "text": ["STRING", {}]}}, "output": ["IMAGE"]}
        self.server.answers["object_info"] = {**INFO, "T": kind}
        (self.folder / "a.json").write_text(json.dumps(nodes))
        return self.run("--seeds", "0-99999", file="a.json")

    def checking(self) -> list[str]:
        return [*self.planning(), "--dry-run"]

    def answers(self) -> list[str]:
        self.server.answers["object_info"] = b"[" + b"{}," * 3_900_000 + b"{}]"
        return self.run()

    def hashing(self) -> list[str]:
        self.before = 3
        hole(self.folder / "big.png", PNG)
        return self.run("--set", "1.image=./big.png")

    def resuming(self) -> list[str]:
        self.before = 3
        hole(self.folder / "out" / "a.png", PNG)
        self.journal(HUGE)
        return self.run()

    def journal(self, size: int) -> None:
        command = [sys.executable, "-P", "-m", "ldm_headless", *self.run()]
        subprocess.run(command, cwd=self.folder, check=True, capture_output=True)
        path = self.folder / "out" / ".ldm-run.jsonl"
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        for file in (file for line in lines for file in line.get("files", [])):
            file |= {"name": "a.png", "bytes": size}
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))

    def away(self) -> list[str]:
        """The server took the prompt, and is not there any more."""
        self.server.leaves = True
        self.before = 3
        return self.run("--wait", "60")

    def silent(self) -> list[str]:
        self.listener = socket.create_server(("127.0.0.1", 0))  # takes connections, and never says a word
        return self.run("--wait", "60", url=f"http://127.0.0.1:{self.listener.getsockname()[1]}")

    def stuck(self) -> list[str]:
        """The server holds the prompt, and then does not even answer that it takes it back."""
        self.server.holds = True
        self.server.silent = ("POST queue", "POST interrupt")
        self.before = 3
        return self.run("--wait", "60")

    def dripping(self) -> list[str]:
        self.server.drip = 0.2
        return self.run("--wait", "60")

    def inspecting(self) -> list[str]:
        save_file({f"t{index}": torch.zeros(0) for index in range(200_000)}, self.folder / "a.safetensors")
        return ["inspect", "a.safetensors"]

    def generating(self) -> list[str]:
        """One step of the batch takes seconds."""
        self.before = 6
        return ["generate", str(self.model), "--seeds", "0-999", "--batch", "1000", "--steps", "20", "--device", "cpu"]

    def upscaling(self) -> list[str]:
        """One step of the picture takes seconds."""
        self.before = 8
        model = write_conditional_folder(self.folder / "upscaler", SUPER_RESOLUTION)
        Image.new("RGB", (1400, 1400)).save(self.folder / "a.png")
        return ["upscale", "a.png", "--model", str(model), "--out", "large", "--device", "cpu"]

    def restoring(self) -> list[str]:
        """One step of the picture takes seconds, most of them in the first stage."""
        self.before = 8
        Image.new("L", (1400, 1400)).save(self.folder / "a.png")
        task = ["--task", "colourise", "--model", str(self.model)]
        return ["restore", "a.png", *task, "--out", "coloured", "--device", "cpu"]

    def importing(self) -> list[str]:
        self.before = 0.5
        save_file({"t": torch.zeros(3)}, self.folder / "a.safetensors")
        return ["generate", "a.safetensors", "--seeds", "0-9", "--out", "out"]


def hole(path: Path, head: bytes) -> None:
    path.parent.mkdir(exist_ok=True)
    with path.open("wb") as stream:
        stream.write(head)
        stream.truncate(HUGE)


SITUATIONS = [name for name, kind in vars(Situation).items() if name not in ("run", "journal") and name[0] != "_"]


@pytest.mark.parametrize("number", CODES, ids=lambda number: number.name)
@pytest.mark.parametrize("name", SITUATIONS)
def test_a_signal_ends_the_command_within_a_second(
    tmp_path: Path, tiny_folder: Path, name: str, number: signal.Signals
) -> None:
    with SmallServer() as server:
        situation = Situation(tmp_path, server, tiny_folder)
        command = [sys.executable, "-P", "-m", "ldm_headless", *getattr(situation, name)()]
        process = subprocess.Popen(
            command,
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            # A shell starts what runs in its background deaf to SIGINT, and children inherit that.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        while not is_ready(process.pid):  # before, it imports, and the system ends it
            assert process.poll() is None, process.communicate()
            time.sleep(0.01)
        time.sleep(situation.before)
        assert process.poll() is None, process.communicate()
        start = time.monotonic()
        process.send_signal(number)
        try:
            messages = process.communicate(timeout=30)[1]
        finally:
            process.kill()
        took = time.monotonic() - start
    print(name, number.name, process.returncode, f"{took:.2f} s", messages)  # noqa: T201
    assert process.returncode == CODES[number], messages
    assert "Traceback" not in messages
    assert took < SECOND
