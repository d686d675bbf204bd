"""Trains the demo's portrayer: encoder, diffusion model, export. Interrupt it and start it again at any time."""

from __future__ import annotations

import sys
from pathlib import Path

DEMO = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(DEMO), str(DEMO.parent)]  # the scripts of the portraits, and ldm_backend where not installed

from portrayer_diffusion import train_captions  # noqa: E402
from portrayer_export import export  # noqa: E402
from portrayer_words import train_words  # noqa: E402
from train_common import run_stages  # noqa: E402

if __name__ == "__main__":
    run_stages(
        __doc__ or "",
        {"words": (train_words, 4), "captions": (train_captions, 60)},
        export,
        work=DEMO / ".train-portrayer",
        out=DEMO / "text-portraits-128",
        threads=1,
    )
