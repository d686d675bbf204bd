"""Stage 1: what the device can do at most: matrix products, our convolutions, memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from record import spread
from stage import Report, end, in_turn, start
from torch.nn.functional import conv2d

# (channels in, channels out, side) of the UNet's convolutions that take most of its time, and the decoder's finest.
SHAPES = ((224, 224, 64), (448, 448, 32), (672, 672, 16), (896, 896, 8), (1792, 896, 8), (128, 128, 256))
DRY_SHAPES = ((64, 64, 32), (128, 128, 16))
Work = Callable[[], Any]
FORMATS = {"fp32": torch.float32, "tf32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def main() -> None:
    """Measure everything."""
    device, report = start("ceilings")
    dry = device.type == "cpu"
    report.text("TFLOP/s count a multiplication and an addition as two. The sides of a table took turns.")
    report.tried("matrix products", lambda: products(device, report, (256,) if dry else (4096, 8192)))
    for batch in (1,) if dry else (1, 16, 64):
        for shape in DRY_SHAPES if dry else SHAPES:
            report.tried(f"convolution {shape}", lambda s=shape, n=batch: convolutions(device, report, s, n))
    report.tried("memory", lambda: memory(device, report, 2**24 if dry else 2**31))
    end(report)


def formats(device: torch.device) -> dict[str, torch.dtype]:
    """Those that mean something on this device: the CPU has no TF32, and fp16 is emulated there."""
    return FORMATS if device.type == "cuda" else {name: FORMATS[name] for name in ("fp32", "bf16")}


def allow_tf32(name: str) -> None:
    """As the name of the format says, for products and convolutions."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = name == "tf32"


def products(device: torch.device, report: Report, sizes: tuple[int, ...]) -> None:
    """Square ones of random numbers; zeros would be faster."""
    for n in sizes:
        works = {}
        for name, dtype in formats(device).items():
            a, b = (torch.randn(n, n, device=device).to(dtype) for _ in range(2))

            def work(name: str = name, a: torch.Tensor = a, b: torch.Tensor = b) -> None:
                allow_tf32(name)
                torch.mm(a, b)

            works[name] = work
        rates(report, "Matrix products", f"{n}x{n}x{n}", works, device, 2 * n**3)


def convolutions(device: torch.device, report: Report, shape: tuple[int, int, int], batch: int) -> None:
    """3x3, in both layouts of memory."""
    inputs, outputs, side = shape
    if batch * inputs * side**2 > 2**29:  # the decoder's at batch 64: more than a layer of it is given at once
        return
    works = {}
    for name, dtype in formats(device).items():
        for layout in (torch.contiguous_format, torch.channels_last):
            x = torch.randn(batch, inputs, side, side, device=device).to(dtype, memory_format=layout)
            weight = torch.randn(outputs, inputs, 3, 3, device=device).to(dtype, memory_format=layout)

            def work(name: str = name, x: torch.Tensor = x, weight: torch.Tensor = weight) -> None:
                allow_tf32(name)
                conv2d(x, weight, padding=1)

            works[f"{name} {'NHWC' if layout is torch.channels_last else 'NCHW'}"] = work
    title = f"{batch}x{inputs}x{side}x{side} to {outputs}"
    rates(report, "Convolutions 3x3", title, works, device, 2 * 9 * batch * inputs * outputs * side**2)


def rates(
    report: Report, table: str, title: str, works: dict[str, Work], device: torch.device, operations: int
) -> None:
    """A line for each side. The calls are queued ten at a time, so that starting them does not count."""
    repeats = 10 if device.type == "cuda" else 1

    def repeated(work: Work) -> Work:
        return lambda: [work() for _ in range(repeats)]

    found = in_turn({name: repeated(work) for name, work in works.items()}, device, 5)
    for name, values in found.items():
        speed = spread([repeats * operations / value / 1e12 for value in values], ".4g")
        report.row(table, shape=title, format=name, **{"TFLOP/s": speed})


def memory(device: torch.device, report: Report, size: int) -> None:
    """A copy and a sum within the device, and copies to and from it, bytes read and written."""
    source, target = (torch.empty(size, dtype=torch.uint8, device=device) for _ in range(2))
    numbers = source.view(torch.float32).normal_()
    works: dict[str, tuple[float, Work]] = {
        "copy within the device": (2, lambda: target.copy_(source)),
        "read (sum)": (1, lambda: numbers.sum()),
    }
    if device.type == "cuda":
        host = torch.empty(size // 8, dtype=torch.uint8, pin_memory=True)
        works["pinned host to device"] = (1 / 8, lambda: target[: size // 8].copy_(host, non_blocking=True))
        works["device to pinned host"] = (1 / 8, lambda: host.copy_(source[: size // 8], non_blocking=True))
    found = in_turn({name: work for name, (_, work) in works.items()}, device, 5)
    for name, values in found.items():
        share = works[name][0]
        report.row("Memory", what=name, **{"GB/s": spread([share * size / value / 1e9 for value in values], ".4g")})


if __name__ == "__main__":
    main()
