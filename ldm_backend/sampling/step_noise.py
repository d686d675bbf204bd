"""The fresh noise of the steps as a run takes it: on its device and, for a card, drawn while the card computes."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import Tensor

from ..errors import ScheduleError
from .noise import StepNoise
from .step import runs_ahead

# Gives (N, C, H, W) fresh standard normal noise at each call, one stream for each image; see `noise.StepNoise`.
NoiseSource = Callable[[], Tensor]


@contextmanager
def drawn_ahead(step_noise: NoiseSource, device: torch.device, draws: int) -> Iterator[NoiseSource]:
    """The same noise on `device`, for one run.

    For a card, a thread draws the next noise of a `StepNoise` into pinned memory, from which it is copied without
    waiting. The thread ends with the block. Other sources may be bound to their thread, and are called in it.

    Args:
        step_noise: Gives (N, C, H, W) noise.
        device: Of the run.
        draws: Of the run; so many are made, if nothing ends it before.

    Yields:
        What gives the noise; whatever the thread raises is raised there.
    """
    if not (runs_ahead(device) and isinstance(step_noise, StepNoise)):
        yield lambda: step_noise().to(device)
        return

    thread = ThreadPoolExecutor(1, thread_name_prefix="step noise")
    ahead: deque[Future[Tensor]] = deque()  # one, and none after the last
    left = draws

    def start() -> None:
        nonlocal left
        if left:
            left -= 1
            # Pinned anew each time: torch gives such memory to others, or back, only after its copy has ended.
            ahead.append(thread.submit(lambda: step_noise().pin_memory()))

    def draw() -> Tensor:
        noise = ahead.popleft().result()
        start()
        return noise.to(device, non_blocking=True)

    try:
        start()
        yield draw
    finally:
        ahead.clear()
        thread.shutdown(cancel_futures=True)


def need_noise(
    step_noise: NoiseSource | None, sampler: str, device: torch.device, draws: int
) -> AbstractContextManager[NoiseSource]:
    """`drawn_ahead`, for a sampler that cannot do without.

    Raises:
        ScheduleError: There is no `step_noise`.
    """
    if step_noise is None:
        raise ScheduleError(
            f"{sampler} adds noise at each step but no step noise was given; give a seed for each image."
        )
    return drawn_ahead(step_noise, device, draws)


def noise_of_eta(
    step_noise: NoiseSource | None, sampler: str, eta: float, device: torch.device, draws: int
) -> AbstractContextManager[NoiseSource | None]:
    """`drawn_ahead` where eta asks for noise, else None.

    Raises:
        ScheduleError: Eta out of range, or above 0 without `step_noise`.
    """
    if not 0.0 <= eta <= 1.0:
        raise ScheduleError(f"eta is {eta!r}; expected 0 (deterministic) to 1 (as noisy as DDPM).")
    return need_noise(step_noise, f"{sampler} with eta {eta:g}", device, draws) if eta > 0.0 else nullcontext()
