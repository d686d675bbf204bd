"""Teaches the encoder of the portrayer to read before it meets a picture: the first token learns what a caption says.

Most of the 77 tokens of a caption only fill it up. A UNet that begins to attend to all of them alike hears a word at a
seventieth of its strength: in a run of this length it never learned to listen. An encoder that reads, and a UNet that
begins by attending to the first token (`portrayer_model.first_weights`), make it learn from the first steps on.
"""

from __future__ import annotations

from pathlib import Path

import torch
from portrayer_data import Captioned
from portrayer_model import Reader
from torch import Tensor
from train_common import train

BATCH = 32
RATE = 2e-3
_BEFORE = 1_000_000  # so that its batches are not those of the diffusion model


def train_words(work: Path, minutes: float) -> None:
    """Trains until the budget is used; writes words.pt (resumable; its entry "ema" holds the averaged weights)."""
    torch.manual_seed(0)
    model, captioned = Reader(), Captioned(work)

    def loss_of(step: int) -> Tensor:
        _, tokens, told = captioned.batch(_BEFORE + step, BATCH)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return model(tokens, told)[1]

    train(work / "words.pt", model, loss_of, minutes, RATE, hold=0.5)
