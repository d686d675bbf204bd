"""The one command on the machine with the card, see `run` and README.md: installs, then runs the stages.

    benchmarks/gpu/run [--stages ceilings tests] [--device cuda] [--limit 570] [--out FOLDER]

`--device cpu` is the dry form: every stage on the CPU, with the demo model and few steps. It shows that the kit works,
and nothing about a card.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from install import KIT, MACHINE, install
from record import Results, file_name
from runner import Stage, run_stages

HERE = Path(__file__).resolve().parent
# Name -> seconds at most. Three commands of ten minutes hold all of them, see README.md.
STAGES = {"ceilings": 90, "tests": 300, "host": 300, "speed": 540, "memory": 180, "profile": 120}
PROBE = """
import importlib.metadata, json, platform, sys, torch
device = sys.argv[1]
facts = {"device": torch.cuda.get_device_name() if device == "cuda" else "CPU (dry form)",
    "Python": platform.python_version(), "torch": torch.__version__, "CUDA": torch.version.cuda or "none",
    "cuDNN": torch.backends.cudnn.version() if device == "cuda" else "not used", "threads": torch.get_num_threads()}
for name in ("diffusers", "triton", "transformers", "numpy", "safetensors", "comfyui-ldm"):
    try: facts[name] = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError: facts[name] = "absent"
print(json.dumps(facts))
"""


def main() -> None:
    """Install, ask the machine what it is, run; the exit code says whether every stage passed."""
    given = arguments()
    start = time.monotonic()
    # So that `timeout` and Ctrl-C end the stage that runs, and what it started.
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    environment = install()
    facts = probe(given.device, environment)
    results = Results(given.out / f"{file_name(facts['device'])}.json")
    if given.device == "cpu":
        facts["Dry form"] = "shows that the kit works; its figures say nothing about a card, and little about this CPU"
    results.write({"head": {"date": time.strftime("%Y-%m-%d"), **facts}, "stages": {}})
    scratch = MACHINE / "scratch"
    scratch.mkdir(parents=True, exist_ok=True)
    stages = [
        Stage(name, [sys.executable, str(HERE / f"stage_{name}.py"), "--device", given.device], STAGES[name])
        for name in given.stages
    ]
    environment |= {"LDM_GPU_BATCHES": " ".join(map(str, given.batches))}
    environment |= {"LDM_TEST_DEVICE": given.device, "TMPDIR": str(scratch)}
    left = given.limit - (time.monotonic() - start)
    passed = run_stages(stages, results, given.out / "log.txt", left, environment, say)
    say(f"{results.path.with_suffix('.md')}: {'all stages passed' if passed else 'NOT all stages passed'}")
    sys.exit(0 if passed else 1)


def say(line: str) -> None:
    """Tell it at once, also where the output is a pipe."""
    print(line, flush=True)  # noqa: T201 - what it is for


def arguments() -> argparse.Namespace:
    """Of the command line."""
    parser = argparse.ArgumentParser(prog="benchmarks/gpu/run", description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=list(STAGES), help="in this order; default: all")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda", help="cpu is the dry form")
    parser.add_argument("--batches", type=int, nargs="+", default=[], help="of the stage speed (default: 1 64 16 4)")
    parser.add_argument("--limit", type=float, default=570, help="seconds for everything (default: 570)")
    parser.add_argument("--out", type=Path, default=Path(os.environ.get("OUT") or MACHINE / "out"))
    given = parser.parse_args()
    given.out = given.out.resolve()
    return given


def probe(device: str, environment: dict[str, str]) -> dict[str, Any]:
    """What this machine is, from a process of its own: this one never holds the card.

    Raises:
        SystemExit: There is no torch, or no card.
    """
    done = subprocess.run(
        [sys.executable, "-c", PROBE, device],
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"{sys.executable} has no torch that sees a device {device}; see above.")
    collected = json.loads((KIT / "collected.json").read_text(encoding="utf-8"))
    return {**json.loads(done.stdout.splitlines()[-1]), **collected, "command": " ".join(sys.argv[1:]) or "all stages"}


if __name__ == "__main__":
    main()
