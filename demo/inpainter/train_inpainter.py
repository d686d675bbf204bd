"""Trains the demo's inpainter: diffusion model, export. Interrupt it and start it again at any time."""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

import torch

DEMO = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(DEMO), str(DEMO.parent)]  # the scripts of the portraits, and ldm_backend where not installed

from inpainter_diffusion import train_noise, train_velocity  # noqa: E402
from inpainter_export import export  # noqa: E402


def main() -> None:
    """Runs the stages that are asked for, in order."""
    parser = argparse.ArgumentParser(description=__doc__)
    stages = ("noise", "velocity", "export")
    parser.add_argument("stages", nargs="*", default="all", choices=("all", *stages))
    parser.add_argument("--noise-minutes", type=float, default=42, help="of CPU time")
    parser.add_argument("--velocity-minutes", type=float, default=18, help="likewise")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of torch")
    parser.add_argument("--work", type=Path, default=DEMO / ".train-inpainter", help="state, pictures and logs")
    parser.add_argument("--out", type=Path, default=DEMO / "inpainter-128", help="the checkpoint folder to write")
    args = parser.parse_args()
    chosen = stages if "all" in args.stages else args.stages
    args.work.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(args.threads)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    if "noise" in chosen:
        train_noise(args.work, args.noise_minutes)
    if "velocity" in chosen:
        train_velocity(args.work, args.velocity_minutes)
    if "export" in chosen:
        export(args.work, args.out)


if __name__ == "__main__":
    main()
