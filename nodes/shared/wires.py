"""The door of every node: what comes in is checked before a node begins, and what goes out holds numbers.

A prompt may hold any value where the editor draws a wire, and the host lets it pass; a number that comes by a wire is
not held against the range of its widget either. So `execute` of every node is `checked`: each input goes through the
door of its kind. Whether a shape fits a model, the networks say.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from numbers import Integral, Real
from typing import Any

import torch
from comfy_api.latest import io
from torch import Tensor

from ...ldm_backend.config.conditioning import TASKS
from ...ldm_backend.errors import InputError, SamplingError, short_repr
from ...ldm_backend.finite import FLOATS, all_finite, is_plain
from ..host.conditioners.text import text_model_of
from ..host.conditioning import check_model_task
from ..host.model import ldm_model_of
from ..host.vae import ldm_vae_of
from .guides import GUIDES_TYPE, GuideChain
from .latent_batch import MASK_KEY, check_carried

MOST_LETTERS = 4096
"""Of a text. Linux takes no longer path."""

_CHANNELS = (1, 3, 4)  # of an IMAGE: grey, RGB, RGB with alpha
_LATENT = (
    "a LATENT, (N, C, H, W) with numbers in it. Connect LDM Latent Noise, a sampler, or another node that gives "
    "latents of pictures."
)
_IMAGE = "an IMAGE, (N, H, W, C). Connect LDM VQ Decode, Load Image, or another node that gives images."
_MASK = "a MASK, (N, H, W). Connect the mask of Load Image, or another node that gives masks."
_NUMBERS = {"LATENT": "The latents", "IMAGE": "The pictures"}  # kinds of what goes out, for the message

Execute = Callable[..., io.NodeOutput]


def checked(execute: Execute) -> Execute:
    """Decorator of a node's `execute`, below `classmethod`.

    Raises (what it makes of `execute`):
        InputError: A value that is not of the kind of its input, or out of its range.
        SamplingError: What the node made holds NaN or infinity.
    """

    @wraps(execute)
    def run(cls: type[io.ComfyNode], **given: Any) -> io.NodeOutput:
        schema = cls.define_schema()
        for item in schema.inputs:
            absent = item.optional and given.get(item.id) is None and getattr(item, "default", None) is None
            if not absent and item.id in given and item.io_type in _DOORS:
                given[item.id] = _DOORS[item.io_type](given[item.id], item)
        output = execute(cls, **given)
        for item, value in zip(schema.outputs, output.args, strict=True):
            _check_output(item.io_type, value)
        return output

    return run


def latent_of(latent: Any, name: str = "latent") -> dict[str, Any]:
    """A LATENT: samples (N, C, H, W) that are numbers, and beside them what other nodes and this pack put there.

    Args:
        latent: What the host handed over.
        name: Of the input, for the message.

    Raises:
        InputError: It is none.
    """
    samples = latent.get("samples") if isinstance(latent, dict) else None
    if not isinstance(samples, Tensor):
        found = latent if samples is None else samples
        what = name if samples is None else f"{name}: samples"
        raise InputError(f"{what} is {_found(found)}; expected {_LATENT}")
    taken = _numbers(samples, name, (4,), _LATENT)
    if latent.get(MASK_KEY) is not None:
        where = f"{name}: {MASK_KEY}"
        _numbers(latent[MASK_KEY], where, (2, 3, 4), "a MASK, as Set Latent Noise Mask writes it.")
    check_carried(latent, name)
    return latent if taken is samples else latent | {"samples": taken}


def _latent(value: Any, item: Any) -> dict[str, Any]:
    return latent_of(value, item.id)


def _image(value: Any, item: Any) -> Tensor:
    """(N, H, W, C); half precision comes out as float32, which changes no number."""
    image = _numbers(value, item.id, (4,), _IMAGE)
    if image.shape[-1] not in _CHANNELS:
        raise InputError(f"{item.id} has {image.shape[-1]} channel(s); expected 3 (RGB), 4 with alpha, or 1 (grey).")
    return image.float() if image.itemsize < torch.float32.itemsize else image


def _mask(value: Any, item: Any) -> Tensor:
    """(N, H, W) or (H, W); half precision and truths come out as float32, which changes no number."""
    value = value.float() if isinstance(value, Tensor) and value.dtype == torch.bool else value
    mask = _numbers(value, item.id, (2, 3), _MASK)
    return mask.float() if mask.itemsize < torch.float32.itemsize else mask


def _model(value: Any, item: Any) -> Any:
    """A MODEL of this pack, for one of the tasks that `model_input` was given; any other input takes all tasks."""
    check_model_task(ldm_model_of(value, item.id).ldm_config.task, getattr(item, "tasks", TASKS), item.id)
    return value


def _vae(value: Any, item: Any) -> Any:
    return ldm_vae_of(value, item.id)


def _clip(value: Any, item: Any) -> Any:
    text_model_of(value)
    return value


def _clip_vision_output(value: Any, item: Any) -> Any:
    """What CLIP Vision Encode gives, with the vectors of its pictures (N, D)."""
    vectors = getattr(value, "image_embeds", None)
    if vectors is None:
        raise InputError(f"{item.id} is {_found(value)}; expected a CLIP_VISION_OUTPUT. Connect CLIP Vision Encode.")
    _numbers(vectors, item.id, (2,), "vectors (N, D) of pictures. Connect CLIP Vision Encode.")
    return value


def _guides(value: Any, item: Any) -> GuideChain:
    if not isinstance(value, GuideChain):
        raise InputError(
            f"{item.id} is {_found(value)}; expected LDM_GUIDES. Connect one of the nodes LDM Guide, such as LDM "
            "Guide: Low Resolution."
        )
    return value


def _conditioning(value: Any, item: Any) -> list[Any]:
    """A CONDITIONING as the host writes it; what is in its tables, the model says."""
    pairs = value if isinstance(value, list) else []
    if not pairs or not all(
        isinstance(one, list | tuple) and len(one) == 2 and isinstance(one[1], dict) for one in pairs
    ):
        raise InputError(
            f"{item.id} is {_found(value)}; expected a CONDITIONING. Connect a node that gives one, such as LDM "
            "Super-Resolution Conditioning or LDM Class, or leave it open for an unconditional model."
        )
    return value


def _whole_number(value: Any, item: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, Integral) or not item.min <= value <= item.max:
        raise InputError(f"{item.id} is {_found(value)}; expected a whole number from {item.min} to {item.max}.")
    return int(value)


def _number(value: Any, item: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, Real) or not item.min <= value <= item.max:  # NaN neither
        raise InputError(f"{item.id} is {_found(value)}; expected a number from {item.min} to {item.max}.")
    return float(value)


def _truth(value: Any, item: Any) -> bool:
    if not isinstance(value, bool):
        raise InputError(f"{item.id} is {_found(value)}; expected true or false.")
    return value


def _text(value: Any, item: Any) -> str:
    if not isinstance(value, str):
        raise InputError(f"{item.id} is {_found(value)}; expected a text.")
    if len(value) > MOST_LETTERS:
        raise InputError(f"{item.id} has {len(value)} letters; expected at most {MOST_LETTERS}. Shorten it.")
    return value


_DOORS: dict[str, Callable[[Any, Any], Any]] = {
    "LATENT": _latent, "IMAGE": _image, "MASK": _mask, "MODEL": _model, "VAE": _vae,
    "CLIP": _clip, GUIDES_TYPE: _guides, "CONDITIONING": _conditioning, "INT": _whole_number,
    "FLOAT": _number, "BOOLEAN": _truth, "STRING": _text, "CLIP_VISION_OUTPUT": _clip_vision_output,
}  # fmt: skip
"""By kind of input. Choices are for the nodes: what a choice may be, and what to say otherwise, differs."""


def _numbers(value: Any, name: str, ranks: tuple[int, ...], expected: str) -> Tensor:
    """A plain tensor of real, finite numbers, of one of these ranks and of no size 0; without its gradient.

    Raises:
        InputError: It is none.
    """
    if not is_plain(value) or value.ndim not in ranks or not value.numel():
        raise InputError(f"{name} is {_found(value)}; expected {expected}")
    if value.dtype not in FLOATS:
        kind = str(value.dtype).removeprefix("torch.")
        raise InputError(f"{name} is {_found(value)} of the type {kind}; expected float32, in {expected}")
    if not all_finite(value):
        raise InputError(
            f"{name} holds NaN, infinite numbers, or ones beyond float32. A node before this one made them: look at "
            "what it was given, and connect a source that holds numbers."
        )
    return value.detach() if value.requires_grad else value


def _check_output(kind: str, value: Any) -> None:
    """Raise SamplingError if latents or pictures hold something that is no number."""
    tensor = value["samples"] if kind == "LATENT" else value
    if kind in _NUMBERS and not all_finite(tensor):
        raise SamplingError(
            f"{_NUMBERS[kind]} that this node made hold NaN or infinite numbers: what it was given is too large to "
            "compute with. Look at what comes in, or load the checkpoint with precision and vae_precision fp32."
        )


def _found(value: Any) -> str:
    """A tensor by its shape, a value out of JSON as Python writes it, anything else by its type."""
    if isinstance(value, Tensor):
        if not is_plain(value):
            return "a nested, sparse or quantised tensor, or one without data"
        return f"a tensor of shape {short_repr(tuple(value.shape))}"
    if value is None or isinstance(value, bool | int | float | str):
        return short_repr(value)
    return f"a {type(value).__name__}"
