"""Trains the demo checkpoint: first stage, diffusion model, export. Interrupt it and start it again at any time."""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

import torch

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))  # for ldm_backend, when the pack is a folder and not installed

from train_diffusion import train_diffusion  # noqa: E402
from train_export import export  # noqa: E402
from train_first_stage import train_first_stage  # noqa: E402


def main() -> None:
    """Runs the stages that are asked for, in order."""
    parser = argparse.ArgumentParser(description=__doc__)
    stages = ("first-stage", "diffusion", "export")
    parser.add_argument("stages", nargs="*", default="all", choices=("all", *stages))
    parser.add_argument("--first-stage-minutes", type=float, default=30)
    parser.add_argument("--diffusion-minutes", type=float, default=65)
    parser.add_argument("--threads", type=int, default=2, help="CPU threads of torch")
    parser.add_argument("--work", type=Path, default=HERE / ".train", help="state, pictures and logs")
    parser.add_argument("--out", type=Path, default=HERE / "portraits-128", help="the checkpoint folder to write")
    args = parser.parse_args()
    chosen = stages if "all" in args.stages else args.stages
    args.work.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(args.threads)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    if "first-stage" in chosen:
        train_first_stage(args.work, args.first_stage_minutes)
    if "diffusion" in chosen:
        train_diffusion(args.work, args.diffusion_minutes)
    if "export" in chosen:
        export(args.work, args.out)


if __name__ == "__main__":
    main()
