"""safetensors that are damaged, do not fit, or have a hostile header."""

from __future__ import annotations

import json
import os
import random
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from .registry import KEY, UNET, VQ, bad

# safetensors: damage


@bad("cannot be read", **{f"kept_{n}": n for n in (4, 8, 9, 60, -1)}, half_the_header=0.04, half=0.5, most=0.9)
def cut_short(f: Path, keep: float) -> None:
    data = (f / UNET).read_bytes()
    (f / UNET).write_bytes(data[: keep if isinstance(keep, int) else int(keep * len(data))])


@bad("cannot be read")
def bytes_behind_the_end(f: Path) -> None:
    (f / UNET).write_bytes((f / UNET).read_bytes() + b"more")


@bad("", **{f"seed_{n}": n for n in range(12)})
def bit_flipped_in_the_header(f: Path, seed: int) -> None:
    data = bytearray((f / UNET).read_bytes())
    length = len(data[8 : 8 + int.from_bytes(data[:8], "little")].rstrip())  # behind it are blanks
    bit = random.Random(seed).randrange(8 * (8 + length))
    data[bit // 8] ^= 1 << bit % 8
    (f / UNET).write_bytes(data)


def rewrite(file: Path, change: Callable[[dict[str, Tensor]], Mapping[str, Tensor]]) -> None:
    save_file(dict(change({key: tensor.clone() for key, tensor in load_file(file).items()})), file)


def with_number(tensor: Tensor, number: float) -> Tensor:
    tensor.view(-1)[-1] = number
    return tensor


@bad("NaN or infinite", nan=float("nan"), infinite=float("inf"), negative_infinite=float("-inf"))
def weight_that_is_no_number(f: Path, number: float) -> None:
    rewrite(f / UNET, lambda w: w | {KEY: with_number(w[KEY], number)})


@bad("NaN or infinite")
def nan_in_half_precision(f: Path) -> None:
    rewrite(f / UNET, lambda w: {key: with_number(tensor.half(), float("nan")) for key, tensor in w.items()})


@bad("NaN or infinite")
def nan_in_the_codebook(f: Path) -> None:
    rewrite(
        f / VQ, lambda w: w | {"quantize.embedding.weight": with_number(w["quantize.embedding.weight"], float("nan"))}
    )


@bad("NaN or infinite")
def bit_flips_that_end_in_nan(f: Path) -> None:
    """The exponent of one weight, all ones. Flips that leave a number cannot be noticed: see test_bad_files.py."""
    data = bytearray((f / UNET).read_bytes())
    data[-1], data[-2] = 0x7F, 0xC0
    (f / UNET).write_bytes(data)


@bad("do not fit")
def swapped_tensors(f: Path) -> None:
    rewrite(f / UNET, lambda w: w | {"conv_in.weight": w["conv_out.weight"], "conv_out.weight": w["conv_in.weight"]})


@bad(
    "other shapes",
    transposed=lambda t: t.transpose(0, 1),
    flat=torch.flatten,
    scalar=torch.sum,
    longer=lambda t: t.repeat(2, 1, 1, 1),
)
def other_shape(f: Path, change: Callable[[Tensor], Tensor]) -> None:
    rewrite(f / UNET, lambda w: w | {KEY: change(w[KEY]).contiguous()})


@bad("dimensions")
def sixty_dimensions(f: Path) -> None:
    rewrite(f / UNET, lambda w: w | {KEY: torch.zeros((1,) * 60)})


@bad("missing keys: conv_in.weight")
def missing_key(f: Path) -> None:
    rewrite(f / UNET, lambda w: {key: tensor for key, tensor in w.items() if key != KEY})


@bad("unexpected keys")
def extra_key(f: Path) -> None:
    rewrite(f / UNET, lambda w: w | {"\x1b[2J" + "lost" * 500: torch.zeros(1)})


@bad("do not fit")
def no_tensors(f: Path) -> None:
    rewrite(f / UNET, lambda _: {})


@bad(
    "expected one of torch.float32",
    whole=torch.int32,
    truth=torch.bool,
    eight_bits=torch.float8_e4m3fn,
    complex=torch.complex64,
)
def other_numbers(f: Path, dtype: torch.dtype) -> None:
    rewrite(f / UNET, lambda w: w | {KEY: w[KEY].to(dtype)})


# safetensors: hostile headers


def with_header(header: bytes, data: bytes = b"", length: int | None = None) -> bytes:
    return struct.pack("<Q", len(header) if length is None else length) + header + data


def described(shape: object = (2,), offsets: object = (0, 8), dtype: object = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


@bad(
    "cannot be read",
    negative_shape=described(shape=[-2]),
    enormous_shape=described(shape=[2**63]),
    overflowing_shape=described(shape=[2**33, 2**33]),
    overflowing_offsets=described(offsets=[2**64 - 4, 4]),
    more_than_there_is=described(shape=[2**34], offsets=[0, 2**36]),
    less_than_its_shape=described(offsets=[0, 4]),
    negative_offsets=described(offsets=[-8, 0]),
    fractional_offsets=described(offsets=[0.0, 8.5]),
    reversed_offsets=described(offsets=[8, 0]),
    three_offsets=described(offsets=[0, 8, 16]),
    unknown_dtype=described(dtype="F1024"),
    no_dtype={"shape": [2], "data_offsets": [0, 8]},
    dtype_that_is_a_list=described(dtype=["F32"]),
    number=3,
)
def described_wrongly(f: Path, entry: object) -> None:
    (f / UNET).write_bytes(with_header(json.dumps({KEY: entry}).encode(), bytes(8)))


@bad(
    "cannot be read|refused|do not fit",
    no_object=with_header(b"[1]"),
    nothing=with_header(b""),
    empty=with_header(b"{}"),
    deep=with_header(b'{"a":' * 200_000),
    not_utf8=with_header(b'{"\xff\xfe": 1}'),
    nul=with_header(b"{\0}"),
    longer_than_the_file=with_header(b"{}", length=2**40),
    longest=with_header(b"{}", length=2**64 - 1),
    huge=with_header(b"{" + b" " * (9 * 2**20) + b"}"),
    same_key_twice=with_header(
        b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}',
        bytes(8),
    ),
    overlapping=with_header(json.dumps({"a": described(), "b": described()}).encode(), bytes(8)),
    gap=with_header(json.dumps({"a": described(), "b": described(offsets=[12, 20])}).encode(), bytes(20)),
    metadata_of_numbers=with_header(b'{"__metadata__":{"a":1}}'),
    deep_metadata=with_header(b'{"__metadata__":' + b'{"a":' * 100_000),
    many_tensors=with_header(json.dumps({str(n): described([0], [0, 0]) for n in range(120_000)}).encode()),
)
def header(f: Path, content: bytes) -> None:
    (f / UNET).write_bytes(content)


@bad("do not fit")
def eight_gigabytes_of_hole(f: Path) -> None:
    """A sparse file: the sizes are true, and nothing of it may be read before the shapes are compared."""
    content = with_header(json.dumps({KEY: described([2**31], [0, 2**33])}).encode())
    (f / UNET).write_bytes(content)
    os.truncate(f / UNET, len(content) + 2**33)
