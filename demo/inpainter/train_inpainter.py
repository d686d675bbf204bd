"""Trains the demo's inpainter: diffusion model, export. Interrupt it and start it again at any time."""

from __future__ import annotations

import sys
from pathlib import Path

DEMO = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(DEMO), str(DEMO.parent)]  # the scripts of the portraits, and ldm_backend where not installed

from inpainter_diffusion import train_noise, train_velocity  # noqa: E402
from inpainter_export import export  # noqa: E402
from train_common import run_stages  # noqa: E402

if __name__ == "__main__":
    run_stages(
        __doc__ or "",
        {"noise": (train_noise, 42), "velocity": (train_velocity, 18)},
        export,
        work=DEMO / ".train-inpainter",
        out=DEMO / "inpainter-128",
        threads=1,
        of="of CPU time",
    )
