"""Work on a batch in as many parts as memory asks for: planned from the estimates, and smaller still when it runs out.

Images are independent of each other, so parts change nothing in them but the rounding of sums, as batch sizes do.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from ..errors import TooLargeError
from .estimates import in_words, largest
from .free_memory import free_bytes
from .mapped import trim

logger = logging.getLogger("comfyui_ldm")

_SMALL = 128 * 2**20  # bytes: below that nobody asks how much is free

# What torch says where memory ran out and it has no class for that.
_MESSAGES = (
    # The CPU's allocator, the C++ library, oneDNN.
    "can't allocate memory",
    "Cannot allocate memory",
    "std::bad_alloc",
    "could not create a primitive",
    "could not create a memory",
    "could not execute a primitive",
    # Cards, where not torch's own allocator asked: the driver, for a stream or a kernel's code; cuBLAS and cuDNN, for a
    # handle or a workspace (cuDNN before 9 and since). NOT_INITIALIZED, NOT_SUPPORTED, EXECUTION_FAILED and "unable to
    # find an engine" have other causes too, which fewer images would not mend, so they stay the errors that they are.
    "CUDA out of memory",
    "CUDA error: out of memory",
    "CUDA driver error: out of memory",
    "HIP out of memory",
    "HIP error: out of memory",
    "MPS backend out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_INTERNAL_ERROR_HOST_ALLOCATION_FAILED",
    "CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED",
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception means that memory ran out, on any device."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _MESSAGES)


def attempt(work: Callable[[], Tensor]) -> Tensor | None:
    """What `work` returns; None if memory ran out, with everything let go of that the exception would have kept."""
    try:
        return work()
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        logger.info("torch: %s", str(error).partition("\n")[0])
        return None


def give_back() -> None:
    """Return to the system and to the graphics card what the C library and torch keep in reserve."""
    trim()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()


class Chunks:
    """How many images a network takes at once.

    Args:
        task: What the network does, for messages: "UNet".
        free: Bytes free on a device.
        recover: Called after memory ran out and before the next attempt.
    """

    def __init__(
        self,
        task: str,
        free: Callable[[torch.device], int] = free_bytes,
        recover: Callable[[], None] = give_back,
    ) -> None:
        self._task, self._free, self.recover = task, free, recover
        self._limit: tuple[tuple[int, ...], int] | None = None  # (C, H, W), and the images of which that ran out
        self._fitted: tuple[torch.device, tuple[int, ...], int] | None = None  # on which device, and the most of them

    def parts(
        self,
        work: Callable[[slice], Tensor],
        shape: torch.Size,
        device: torch.device,
        cost: Callable[[int], int],
        at_most: int | None = None,
    ) -> Iterator[tuple[slice, Tensor]]:
        """Do the work part by part.

        Args:
            work: Computes some images of the batch.
            shape: (N, C, H, W) of what it reads.
            device: Where it computes.
            cost: Bytes that a number of images takes.
            at_most: Images at once.

        Yields:
            Which images, and what `work` made of them.

        Raises:
            TooLargeError: A single image does not fit.
        """
        at_once = self._planned(shape, device, cost, at_most or shape[0])
        start = 0
        while start < shape[0]:
            part = slice(start, min(start + at_once, shape[0]))
            done = attempt(lambda part=part: work(part))
            if done is not None:
                yield part, done
                start = part.stop
                continue
            self.recover()
            self._fitted = None
            if part.stop - start == 1:
                raise TooLargeError(self._given_up(shape, device, cost))
            at_once = (part.stop - start) // 2
            self._limit = (tuple(shape[1:]), at_once)
            logger.warning(
                "%s: out of memory with %d images at once; going on with %d", self._task, part.stop - start, at_once
            )

    def whole(
        self,
        work: Callable[[slice], Tensor],
        shape: torch.Size,
        device: torch.device,
        cost: Callable[[int], int],
        at_most: int | None = None,
    ) -> Tensor:
        """Likewise, joined: (N, ...)."""
        made = [part for _, part in self.parts(work, shape, device, cost, at_most)] or [work(slice(0))]
        return made[0] if len(made) == 1 else torch.cat(made)

    def has_room(self, device: torch.device, needed: int) -> bool:
        """Whether that many bytes may be tried: only on the CPU an estimate decides, where the system would not."""
        return device.type != "cpu" or needed < _SMALL or needed <= self._free(device)

    def _planned(self, shape: torch.Size, device: torch.device, cost: Callable[[int], int], at_most: int) -> int:
        """Images at once: as many as fit, and as did not run out before."""
        images = min(at_most, shape[0])
        if self._limit is not None and self._limit[0] == tuple(shape[1:]):
            images = min(images, self._limit[1])
        if images < 1 or cost(images) < _SMALL:
            return max(1, images)
        place = (device, tuple(shape[1:]))
        if self._fitted is not None and self._fitted[:2] == place and images <= self._fitted[2]:
            return images
        free = self._free(device)
        fitting = largest(images, lambda n: cost(n) <= free)
        if not fitting and device.type == "cpu":  # where the system would end the process; elsewhere it can be tried
            raise TooLargeError(self._given_up(shape, device, cost))
        if fitting == images and device.type != "cpu":
            # Not asked again at each step: a card that has less by then says so, and a smaller part is tried.
            self._fitted = (*place, images)
        return max(1, fitting)

    def _given_up(self, shape: torch.Size, device: torch.device, cost: Callable[[int], int]) -> str:
        return (
            f"{self._task}: one latent or image of {shape[3]}x{shape[2]} needs about {in_words(cost(1))} of memory on "
            f"{device.type}, and {in_words(self._free(device))} are free. Make the image smaller, or close other "
            "programs."
        )
