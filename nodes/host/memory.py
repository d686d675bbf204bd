"""What the host has free, and how it makes room."""

from __future__ import annotations

import weakref
from collections.abc import Callable

import comfy.model_management
import torch
from torch import nn

from ...ldm_backend.kernels.fast_conv import kernel_bytes
from ...ldm_backend.memory.chunks import Chunks
from ...ldm_backend.memory.estimates import Cost, Size, check_fits
from ...ldm_backend.memory.free_memory import container_free, container_limit
from ...ldm_backend.memory.mapped import trim

_EVERYTHING = 1e30  # bytes, as the host itself asks for all


def free_memory(device: torch.device) -> int:
    """Bytes that can be allocated on a device now."""
    free = int(comfy.model_management.get_free_memory(device))  # pyright: ignore[reportArgumentType] - a pair only if asked
    return min(free, container_free()) if device.type == "cpu" else free


def reachable_memory(device: torch.device) -> int:
    """Bytes that a run can have on a device: what is free, and on an accelerator what the host would unload for it."""
    free = free_memory(device)
    if device.type == "cpu":
        return free
    # A model that has just ended stays in the host's list, as None, until the host looks through it.
    loaded = [model for model in comfy.model_management.loaded_models() if model is not None]
    return free + sum(model.loaded_size() for model in loaded if model.load_device == device)


def whole_memory() -> int:
    """Bytes of memory that this machine or container could ever give on the CPU."""
    total = comfy.model_management.get_total_memory(torch.device("cpu"))
    return min(int(total), container_limit())  # pyright: ignore[reportArgumentType] - a pair only if asked


def check_first_stage(
    task: str, network: nn.Module, device: torch.device, size: Size, kept: Cost, work: Callable[[int, int], int]
) -> None:
    """Refuse pictures that a first stage cannot make or take.

    Args:
        task: For the message.
        network: The first stage.
        device: Where it computes.
        size: Of the pictures.
        kept: Bytes of all pictures, on the CPU.
        work: Bytes that one picture of this height and width takes on the device.

    Raises:
        TooLargeError: What is kept and what is computed do not fit, together where both are on the CPU.
    """
    cpu = torch.device("cpu")
    if device.type == "cpu":
        free = free_memory(cpu) - kernel_bytes(network)
        check_fits(task, size, lambda n, *sides: kept(n, *sides) + work(*sides), free)
        return
    check_fits(task, size, kept, free_memory(cpu))
    check_fits(task, size, lambda _, *sides: work(*sides), reachable_memory(device))


def make_chunks(task: str, network: nn.Module) -> Chunks:
    """How a network of a MODEL or VAE takes its batches; where memory runs out, the host gives back what it can.

    Args:
        task: What the network does, for messages.
        network: Stays where it is, unlike the other models that the host has loaded on an accelerator.
    """
    known = weakref.ref(network)  # what is made here belongs to the network, which shall end when its MODEL does

    def recover() -> None:
        here = known()
        device = comfy.model_management.get_torch_device()
        if here is not None and device.type != "cpu":
            running = comfy.model_management.current_loaded_models
            keep = [one for one in running if one.model is not None and _holds(one.model.model, here)]
            comfy.model_management.free_memory(_EVERYTHING, device, keep)
        comfy.model_management.soft_empty_cache()
        trim()

    return Chunks(task, free_memory, recover)


def _holds(model: object, network: nn.Module) -> bool:
    """Whether a model of the host, which may be of any pack, is built around this network."""
    return isinstance(model, nn.Module) and any(part is network for part in model.modules())
