"""What the trainings share: time budget, learning rate, the loop of a diffusion model, state on disk."""

from __future__ import annotations

import argparse
import logging
import math
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

Training = Callable[[Path, float], None]  # of a stage, in a work folder, for so many minutes

EMA = 0.998  # a tenth of the run; the factor starts low so that the average does not remember the first weights
SAVE_EVERY = 250

log = logging.getLogger("comfyui_ldm.demo")


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


def train(
    path: Path,
    model: nn.Module,
    loss_of: Callable[[int], Tensor],
    minutes: float,
    rate: float,
    hold: float,
    clock: Callable[[], float] = time.monotonic,
    begin: Callable[[], tuple[Mapping[str, Tensor], int]] | None = None,
) -> None:
    """Trains a diffusion model until the budget is used.

    Args:
        path: Of the state, with which a run goes on; its entry "ema" holds the averaged weights.
        model: With its first weights.
        loss_of: Of a step by its number, which also decides what is drawn for it.
        minutes: Length of the stage.
        rate: Highest learning rate.
        hold: See `set_rate`.
        clock: See `Budget`.
        begin: The weights and the number of the step that a new stage begins with; None is those of the model, and 0.
    """
    optimizer = torch.optim.Adam(model.parameters(), lr=rate, betas=(0.9, 0.99))
    state: dict[str, Any] = restore(path, model, optimizer)
    if not state and begin is not None:
        weights, first = begin()
        model.load_state_dict(weights)
        state |= {"begin": first, "step": first}
    ema = state.get("ema") or {name: value.detach().clone() for name, value in model.state_dict().items()}
    first, step, mean_loss = state.get("begin", 0), state.get("step", 0), state.get("loss", 1.0)
    budget = Budget(minutes, state.get("used", 0.0), clock)
    done = budget.progress >= 1
    while not done:
        own = step - first
        set_rate(optimizer, rate, own, budget.progress, hold)
        loss = loss_of(step)
        descend(model, optimizer, loss)
        follow(ema, model, min(EMA, (1 + own) / (10 + own)))
        step += 1
        mean_loss += (loss.item() - mean_loss) * max(0.01, 1 / (own + 1))
        if step % 50 == 0:
            log.info("%s step %d progress %.3f loss %.4f", path.stem, step, budget.progress, mean_loss)
        done = budget.progress >= 1
        if step % SAVE_EVERY == 0 or done:
            save_state(path, model, optimizer, ema=ema, begin=first, step=step, used=budget.used, loss=mean_loss)
    log.info("%s done: %d steps, loss %.4f", path.stem, step - first, mean_loss)


@torch.no_grad()
def follow(ema: dict[str, Tensor], model: nn.Module, decay: float) -> None:
    """Moves the averaged weights towards those of `model`."""
    state = model.state_dict()
    for name, average in ema.items():
        average.lerp_(state[name], 1 - decay)


def run_stages(
    about: str,
    trainings: Mapping[str, tuple[Training, float]],
    export: Callable[[Path, Path], None],
    work: Path,
    out: Path,
    threads: int,
    of: str = "of the clock",
) -> None:
    """Runs the stages that the command line asks for, in order.

    Args:
        about: What the program does.
        trainings: The stages and their minutes by default, by their names.
        export: The last stage, from the work folder to the checkpoint folder.
        work: Folder by default.
        out: likewise.
        threads: likewise.
        of: What the minutes are of.
    """
    parser = argparse.ArgumentParser(description=about)
    names = (*trainings, "export")
    parser.add_argument("stages", nargs="*", default="all", choices=("all", *names))
    for name, (_, minutes) in trainings.items():
        parser.add_argument(f"--{name}-minutes", type=float, default=minutes, help=f"{of} (default: {minutes:g})")
    parser.add_argument("--threads", type=int, default=threads, help="CPU threads of torch")
    parser.add_argument("--work", type=Path, default=work, help="state, pictures and logs")
    parser.add_argument("--out", type=Path, default=out, help="the checkpoint folder to write")
    args = parser.parse_args()
    chosen = names if "all" in args.stages else args.stages
    args.work.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(args.threads)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    for name, (training, _) in trainings.items():
        if name in chosen:
            training(args.work, getattr(args, f"{name.replace('-', '_')}_minutes"))
    if "export" in chosen:
        export(args.work, args.out)
