"""Portraits with captions: latents of those that are drawn, and of each the tokens of what is said of it."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import torch
from portrait_traits import STYLE_ODDS, STYLES, Traits, draw_traits
from portrayer_captions import TRAITS, UNSAID, Tokenizer, describe, facts, number_of
from torch import Tensor
from train_data import load_portraits, to_tensor

import ldm_backend

COUNT = 16_000
FIRST = 2_000_000  # seeds that portraits-128 does not have; the inpainter was trained on the first 4,000 too
PORTRAITS = Path(__file__).parents[1] / "portraits-128"  # its first stage, and the weights to begin with
GLASSES = 2.0  # how much more often than drawn: one in six wears them
_AT_ONCE = 32

log = logging.getLogger("comfyui_ldm.demo")


def traits_of(seed: int) -> Traits:
    """Returns what the portrait of this seed is drawn from."""
    return draw_traits(np.random.default_rng(seed))


def load_latents(work: Path) -> np.ndarray:
    """Returns the latents of all portraits, float16 (COUNT, 3, h, w), encoded once."""
    path = work / "latents.npy"
    if not path.is_file():
        images = load_portraits(work, FIRST, COUNT)
        log.info("encoding %d portraits", COUNT)
        np.save(path.with_suffix(".part.npy"), encoded(images))
        path.with_suffix(".part.npy").replace(path)
    return np.load(path)


def encoded(images: np.ndarray) -> np.ndarray:
    """Returns the latents of uint8 portraits (N, H, W, 3), float16."""
    stage = ldm_backend.load(PORTRAITS, "cpu").first_stage
    parts = (images[start : start + _AT_ONCE] for start in range(0, len(images), _AT_ONCE))
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):  # its rounding is far below the quantiser's
        latents = [stage.encode(to_tensor(part)).half() for part in parts]
    return torch.cat(latents).numpy()


class Captioned:
    """Draws latents with captions; what is rare among the portraits comes more often than it was drawn.

    Args:
        work: Folder of the training.
    """

    def __init__(self, work: Path) -> None:
        self.latents, self.tokenizer = load_latents(work), Tokenizer()
        self.traits = [traits_of(FIRST + index) for index in range(COUNT)]
        known = [facts(one) for one in self.traits]
        self.known = torch.tensor([[number_of(name, one) for name in TRAITS] for one in known])
        odds: dict[str, float] = dict(zip(STYLES, STYLE_ODDS, strict=True))
        weights = [(GLASSES if one.glasses else 1.0) / odds[one.style] ** 0.5 for one in self.traits]
        self._ends = np.cumsum(weights) / np.sum(weights)

    def batch(self, step: int, size: int) -> tuple[Tensor, Tensor, Tensor]:
        """Returns latents (N, 3, h, w), tokens (N, MAX_TOKENS) and told values (N, traits); the same for each step."""
        rng = np.random.default_rng((29, step))
        index = np.minimum(np.searchsorted(self._ends, rng.random(size)), COUNT - 1)
        captions = [describe(self.traits[one], rng) for one in index]
        told = torch.tensor([[name in caption.told for name in TRAITS] for caption in captions])
        tokens = torch.tensor([self.tokenizer(caption.text) for caption in captions])
        return torch.from_numpy(self.latents[index]).float(), tokens, self.known[index].where(told, UNSAID)
