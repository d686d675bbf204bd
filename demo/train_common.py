"""What both training stages share: a time budget, the learning rate, the choice of pictures, the state on disk."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn


class Budget:
    """Time budget of a stage. Schedules follow its progress, so a slow or busy machine still ends in order.

    Args:
        minutes: Length of the stage.
        used: Seconds that earlier runs of the stage have used.
        clock: What the seconds are of: the wall's, or `time.process_time`, which counts those of the CPU.
    """

    def __init__(self, minutes: float, used: float = 0.0, clock: Callable[[], float] = time.monotonic) -> None:
        self._limit = 60 * minutes
        self._clock = clock
        self._start = clock() - used

    @property
    def used(self) -> float:
        """Seconds used so far, earlier runs included."""
        return self._clock() - self._start

    @property
    def progress(self) -> float:
        """Fraction of the budget that is used, 0..1."""
        return min(self.used / self._limit, 1.0)


def set_rate(optimizer: torch.optim.Optimizer, peak: float, step: int, progress: float, hold: float) -> None:
    """Sets the learning rate: linear warm-up over 200 steps, constant until `hold`, then a half cosine to zero.

    Args:
        optimizer: Whose rate to set.
        peak: Highest rate.
        step: Optimiser steps done; Adam's second moments need the warm-up.
        progress: Used fraction of the budget.
        hold: Progress at which the decay begins.
    """
    decay = 0.5 * (1 + math.cos(math.pi * max(0.0, (progress - hold) / (1 - hold))))
    for group in optimizer.param_groups:
        group["lr"] = peak * min(1.0, (step + 1) / 200) * decay


def descend(model: nn.Module, optimizer: torch.optim.Optimizer, loss: torch.Tensor) -> None:
    """Takes a step of the optimiser down the gradient of a loss, clipped to a norm of 1."""
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()


def batch_indices(seed: int, step: int, count: int, batch: int) -> torch.Tensor:
    """Returns the `batch` picture numbers of a step; a resumed run continues with the same ones."""
    generator = torch.Generator().manual_seed(seed + step)
    return torch.randint(count, (batch,), generator=generator)


def save_state(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, **rest: Any) -> None:
    """Writes the state of a stage so that an interruption leaves either the old or the new file."""
    partial = path.with_suffix(".part")
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict(), **rest}, partial)
    os.replace(partial, path)


def read_state(path: Path) -> dict[str, Any]:
    """Returns the state at `path`, empty if the stage has not begun."""
    return torch.load(path, weights_only=True) if path.is_file() else {}


def restore(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Loads model and optimiser from `path` if it exists; returns the whole state, empty for a new stage."""
    state = read_state(path)
    if state:
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
    return state
