"""Loads checkpoints one by one, each in a forked process that is watched. Started by test_bad_files.py.

A line of JSON comes in on standard input ({"path": what to load, "cwd": where}) and one goes out:
    outcome: "loaded", the name of the error's class, or "killed by signal N" (14 is the end of the time)
    family: whether it was an LDMError
    message: of the error
    seconds, megabytes: wall time, and the peak of resident memory above what the process had when it was forked
    acts: what a checkpoint must never cause: programs, connections, files opened for writing, imports
"""

from __future__ import annotations

import encodings.cp437
import encodings.unicode_escape  # noqa: F401 - zipfile, messages, torch.load and the YAML reader import some modules
import json
import os
import resource
import signal
import sys
import time
from typing import Any

import torch
import torch.utils.serialization  # noqa: F401 - when they are first used: a file must not seem to have caused that

import ldm_backend
import ldm_backend.checkpoints.first_stage
import ldm_backend.config.omega_yaml  # likewise, and PyYAML with it
import ldm_backend.pipeline

LIMIT = 5  # seconds
_ACTS = ("os.system", "os.exec", "os.posix_spawn", "os.fork", "os.remove", "os.rename", "os.mkdir", "os.truncate")
_ACTS += ("subprocess.Popen", "socket.connect", "pickle.find_class", "shutil.move", "ctypes.dlopen")


def watch(acts: list[str]) -> None:
    """Note what the audit events of Python report from now on."""

    def hook(event: str, args: tuple[Any, ...]) -> None:
        if event in _ACTS or (event == "open" and isinstance(args[2], int) and args[2] & (os.O_WRONLY | os.O_RDWR)):
            acts.append(f"{event} {args[0]!r}"[:200])

    sys.addaudithook(hook)


def load(path: str) -> dict[str, Any]:
    """Load; every error is an answer here, so that the test can say which one it was."""
    try:
        ldm_backend.load(path, device="cpu")
    except Exception as error:  # noqa: BLE001 - the test looks at what it is
        family = isinstance(error, ldm_backend.LDMError)
        return {"outcome": type(error).__name__, "family": family, "message": str(error)[:4000]}
    return {"outcome": "loaded", "family": False, "message": ""}


def child(request: dict[str, str], answer: int) -> None:
    """In the forked process: load below the limits, write the answer."""
    resource.setrlimit(resource.RLIMIT_DATA, (2**34, 2**34))  # spares the machine what a failing test would allocate
    os.chdir(request["cwd"])
    sys.path.insert(0, request["cwd"])
    signal.setitimer(signal.ITIMER_REAL, LIMIT)
    os.write(answer, f"{resident()}\n".encode())
    acts: list[str] = []
    known = set(sys.modules)
    watch(acts)
    result = load(request["path"])
    result["acts"] = [*acts, *(f"import {name}" for name in sorted(set(sys.modules) - known))]
    os.write(answer, json.dumps(result).encode())


def run(request: dict[str, str]) -> dict[str, Any]:
    """Fork, wait, measure."""
    reader, writer = os.pipe()
    start = time.monotonic()
    process = os.fork()
    if process == 0:
        os.close(reader)
        try:
            child(request, writer)
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as stream:
        baseline, text = float(stream.readline()), stream.read()
    _, status, usage = os.wait4(process, 0)
    seconds = time.monotonic() - start
    result = json.loads(text) if text else {"outcome": "died", "family": False, "message": "", "acts": []}
    if os.WIFSIGNALED(status):
        result["outcome"] = f"killed by signal {os.WTERMSIG(status)}"
    return result | {"seconds": seconds, "megabytes": usage.ru_maxrss / 1024 - baseline}


def resident() -> float:
    """Resident memory of this process in MiB; a fork starts with the same."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGESIZE") / 2**20


if __name__ == "__main__":
    torch.set_num_threads(1)  # threads do not survive a fork
    load(sys.argv[1])  # what a first load imports and allocates is no matter of the file
    for line in sys.stdin:
        sys.stdout.write(json.dumps(run(json.loads(line))) + "\n")
        sys.stdout.flush()
