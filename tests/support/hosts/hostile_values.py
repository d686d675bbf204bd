"""What may come by a wire although no node of the host gives it, by the type of the input. Imported by node_walk.py.

Each is a function, so that every call of a node gets a value of its own.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import comfy.nested_tensor
import numpy as np
import torch

Values = dict[str, Callable[[], Any]]
Tensor = torch.Tensor

NOTHING: Values = {
    "nothing": lambda: None,
    "truth": lambda: True,
    "number": lambda: 5,
    "fraction": lambda: 0.5,
    "text": lambda: "x",
    "long text": lambda: "\x1b[2Jx" * 100_000,
    "empty list": list,
    "list": lambda: [1, [2, [3]]],
    "empty table": dict,
    "table": lambda: {"model": {}, "first_stage_model": {}},
    "object": object,
    "class": lambda: object,
    "function": lambda: print,
}


PROMPTS: Values = {
    "parentheses": lambda: "(" * 50_000 + ")" * 50_000,
    "parentheses beside each other": lambda: "(a:1.2)" * 10_000,
    "closed before opened": lambda: ")" * 20 + "(" * 20,
    "a weight of nan": lambda: "(a:nan)",
    "an infinite weight": lambda: "(a:inf) woman",
    "a large weight": lambda: "(a:1e30) woman",
    "a weight below 0": lambda: "(a:-1e9) woman",
    "special tokens": lambda: "[CLS][SEP][PAD][MASK]" * 50,
    "escapes": lambda: "\\(" * 1000 + "\0\1\0\2",
    "half of a character": lambda: "\ud800 (a:1.2)",
    "an embedding": lambda: "embedding:../../../etc/passwd (embedding:x:1.2)",
}
"""Texts that encoders of the host read in their own way."""


def deep(levels: int = 100_000) -> Any:
    """Lists in lists."""
    value: list[Any] = []
    for _ in range(levels):
        value = [value]
    return value


def with_one(tensor: Tensor, number: float) -> Tensor:
    """The tensor with one odd number at its end."""
    tensor = tensor.clone()
    tensor.view(-1)[-1] = number
    return tensor


def misfits(good: Tensor) -> Values:
    """What is no plain tensor of numbers of the rank of `good`."""
    found: Values = {
        "array": good.numpy,
        "lists": good.tolist,
        "beyond float32": lambda: good.double() * 1e300,
        "sparse": good.to_sparse,
        "without data": lambda: good.to("meta"),
        "nested by torch": lambda: torch.nested.nested_tensor([good[0], good[0]]),
        "nested by the host": lambda: comfy.nested_tensor.NestedTensor([good, good]),
        "quantised": lambda: torch.quantize_per_tensor(good.float(), 0.1, 0, torch.qint8),
        "of rank 0": lambda: torch.tensor(1.0),
        "of rank 5": lambda: torch.zeros(1, 1, 1, 16, 16),
        "of rank 30": lambda: torch.zeros((1,) * 30),
        "empty": lambda: torch.zeros(0),
    }
    if good.ndim > 1:
        found |= {
            "flat": good.flatten,
            "of rank 2": lambda: torch.zeros(4, 4),
            "of rank 3": lambda: torch.zeros(3, 8, 8),
        }
    found |= {f"of size 0 along {axis}": partial(good.narrow, axis, 0, 0) for axis in range(good.ndim)}
    for number in (math.nan, math.inf, -math.inf):
        found[f"with one {number}"] = partial(with_one, good, number)
        found[f"of {number}"] = partial(torch.full_like, good, number)
        found[f"with one {number} in float16"] = partial(with_one, good.half(), number)
    for dtype in (torch.int64, torch.int32, torch.int8, torch.uint8, torch.bool, torch.complex64, torch.float8_e4m3fn):
        found[f"in {dtype}"] = partial(good.to, dtype)
    return found


def variants(good: Tensor) -> Values:
    """Tensors of numbers that may pass: other sizes and formats."""
    found: Values = {
        "of the largest numbers": lambda: torch.full_like(good, 3e38),
        "of alternating largest numbers": lambda: (torch.arange(good.numel()) % 2 * 6e38 - 3e38).view(good.shape),
        "in float64": good.double,
        "in float16": good.half,
        "in bfloat16": good.bfloat16,
        "that learns": lambda: good.clone().requires_grad_(),
        "parameter": lambda: torch.nn.Parameter(good.clone()),
        "turned round": lambda: good.transpose(-1, -2).contiguous().transpose(-1, -2),
        "enormous": lambda: torch.zeros((1,) * good.ndim).expand(1, *(2**20 if n > 8 else n for n in good.shape[1:])),
        "of enormous batch": lambda: good[:1].expand(2**24, *good.shape[1:]),
    }
    for axis in range(good.ndim):
        found[f"of size 1 along {axis}"] = lambda axis=axis: good.narrow(axis, 0, 1).clone()
        found[f"one more along {axis}"] = lambda axis=axis: torch.cat([good, good.narrow(axis, 0, 1)], axis)
        found[f"twice along {axis}"] = lambda axis=axis: torch.cat([good] * 2, axis)
    return found


def latents(good: Tensor, keys: dict[str, str]) -> Values:
    """LATENTs.

    Args:
        good: (N, C, h, w) samples that fit.
        keys: The pack's own keys of a LATENT by what they are: seed, labels, info.
    """
    found: Values = NOTHING | {
        "no samples": lambda: {"batch_index": [0]},
        "samples in a list": lambda: [good],
        "bare tensor": lambda: good.clone(),
        "other keys": lambda: {"samples": good.clone(), 5: 6, None: "x"},
    }
    for name, make in (NOTHING | misfits(good) | variants(good)).items():
        found[f"samples {name}"] = lambda make=make: {"samples": make(), "batch_index": [0], keys["seed"]: 3}
    odd: dict[str, Values] = {
        "noise_mask": NOTHING | misfits(torch.ones(1, 1, 64, 64)),
        "batch_index": NOTHING
        | {
            "of nothing": lambda: [None],
            "of texts": lambda: ["a"],
            "of lists": lambda: [[0]],
            "of fractions": lambda: [0.5],
            "of nan": lambda: [math.nan],
            "too long": lambda: list(range(100)),
            "too short": list,
            "of large numbers": lambda: [2**70],
            "of numbers of thousands of digits": lambda: [10**5000],
            "below 0": lambda: [-1],
            "array": lambda: np.array([0]),
            "tensor": lambda: torch.tensor([0]),
            "tensor of nan": lambda: torch.tensor([math.nan]),
            "table": lambda: {0: 1},
            "deep": lambda: [deep()],
        },
        keys["seed"]: NOTHING
        | {"below 0": lambda: -1, "too large": lambda: 2**64, "nan": lambda: math.nan, "digits": lambda: 10**5000},
        keys["labels"]: NOTHING
        | {"numbers": lambda: [5], "long": lambda: ["x" * 10**6], "control": lambda: ["\x1b[2J\0"], "deep": deep,
           "surrogate": lambda: ["\ud800"]},
        keys["info"]: NOTHING
        | {
            "odd keys": lambda: {5: 6, None: 7, (1, 2): 3},
            "objects": lambda: {"a": object()},
            "deep": lambda: {"a": deep()},
            "nan": lambda: {"a": math.nan},
            "tensor": lambda: {"a": torch.zeros(3)},
            "surrogate": lambda: {"a": "\ud800"},
            "digits": lambda: {"a": 10**5000},
            "large": lambda: {"a": "x" * 10**8},
        },
    }  # fmt: skip
    for key, values in odd.items():
        for name, make in values.items():
            found[f"{key} {name}"] = lambda key=key, make=make: {"samples": good.clone(), keys["seed"]: 3, key: make()}
    return found


def sigmas(good: Tensor) -> Values:
    """SIGMAS."""
    return (
        NOTHING
        | misfits(good)
        | {
            "two rows": lambda: torch.stack([good, good]),
            "rising": lambda: good.flip(0),
            "with a step that stays": lambda: torch.cat([good[:1], good]),
            "below 0": lambda: -good,
            "too large": lambda: good * 100,
            "one": lambda: good[:1],
            "only 0": lambda: torch.zeros(1),
            "in float64": good.double,
        }
    )


def numbers(least: float, most: float, kind: type) -> Values:
    """For INT and FLOAT: the edges of a widget and what lies beyond them."""
    found = NOTHING | {
        "least": lambda: kind(least),
        "most": lambda: kind(most),
        "below": lambda: kind(least - 1),
        "beyond": lambda: kind(most + 1),
        "far below": lambda: kind(-(10**300)),
        "far beyond": lambda: kind(10**300),
        "digits": lambda: 10**5000,
        "nan": lambda: math.nan,
        "infinity": lambda: math.inf,
        "tensor": lambda: torch.tensor([1.0, 2.0]),
        "array number": lambda: np.int64(least),
        "complex": lambda: 1j,
    }
    del found["number"], found["fraction"]
    return found


TEXTS: Values = {name: make for name, make in NOTHING.items() if name not in ("text", "number")} | {
    "of 100,000 letters": lambda: "x" * 100_000,
    "of 100,000 folders": lambda: "x/" * 100_000,
    "of 300 letters": lambda: "ä" * 300,
    "empty": str,
    "nul": lambda: "a\0b",
    "surrogate": lambda: "\ud800",
    "outside": lambda: "../../escaped",
    "placeholders": lambda: "%date:yyyy%" * 1000 + "%a.b%" * 1000,
    "bytes": lambda: b"x",
}

HIDDEN: Values = NOTHING | {
    "nan": lambda: {"workflow": {"a": math.nan}},
    "infinity": lambda: {"workflow": [math.inf]},
    "deep": lambda: {"workflow": deep()},
    "quite deep": lambda: {"workflow": deep(200)},
    "digits": lambda: {"workflow": 10**5000},
    "long number": lambda: {"workflow": 10**400},
    "object": lambda: {"workflow": object()},
    "tensor": lambda: {"workflow": torch.zeros(3)},
    "surrogate": lambda: {"workflow": "\ud800"},
    "surrogate in a key": lambda: {"\ud800": 1},
    "our names": lambda: {"weights": 1, "format": 2, "config": 3, "ldm_config": "{}", "__metadata__": 4, "ldm": 5},
    "odd keys": lambda: {5: 6, None: 7, "": 8, "x" * 100: 9, "a\0b": 10, "ü": 11, "日本": 12},
    "texts": lambda: {"workflow": "日本 \x1b[2J"},
    "of 9 MiB": lambda: {"workflow": "x" * (9 * 2**20)},
    "of 70 MiB": lambda: {"workflow": "x" * (70 * 2**20)},
    "many": lambda: {f"key {n}": n for n in range(100_000)},
    "itself": lambda: _itself(),
    "set": lambda: {"workflow": {1, 2}},
}  # fmt: skip


def _itself() -> Any:
    value: dict[str, Any] = {}
    value["workflow"] = value
    return value
