"""Trains the demo's upscaler: first stage, diffusion model, export. Interrupt it and start it again at any time."""

from __future__ import annotations

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))  # for ldm_backend, when the pack is a folder and not installed

from train_common import run_stages  # noqa: E402
from upscaler_diffusion import train_noise, train_velocity  # noqa: E402
from upscaler_export import export  # noqa: E402
from upscaler_first_stage import train_first_stage  # noqa: E402

if __name__ == "__main__":
    run_stages(
        __doc__ or "",
        {"first-stage": (train_first_stage, 22), "noise": (train_noise, 60), "velocity": (train_velocity, 26)},
        export,
        work=HERE / ".train-upscaler",
        out=HERE / "upscaler-4x",
        threads=1,
        of="of CPU time",
    )
