"""Stage 5: peak memory against the estimates of ldm_backend/memory/estimates.py, and beside diffusers.

On the card: what torch has allocated at most beyond what was allocated before. On the CPU, where the estimates are of
resident memory of the process, that.
"""

from __future__ import annotations

import gc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from common import MIB, forget_peak, resident
from peers import Diffusers, Ours
from stage import TIMESTEP, Report, end, latents, model_folder, start

import ldm_backend
from ldm_backend.kernels.fast_conv import empty_caches
from ldm_backend.memory.chunks import give_back
from ldm_backend.memory.estimates import decoder_bytes, sampling_bytes, tiled_decode_bytes, unet_bytes
from ldm_backend.networks.precision import resolve
from ldm_backend.networks.tiled_decode import decode_tiled

GRAIN = 12  # MiB of either that are the allocator's, as in tests/unit/test_memory.py
BATCHES, DRY_BATCHES = (1, 4, 16, 64), (1, 2)


@torch.inference_mode()
def main() -> None:
    """The parts first, then whole pictures."""
    device, report = start("memory")
    dry = device.type == "cpu"
    report.text("MiB beyond what was there before. The estimate must not be below the peak, since batches go by it.")
    batches = DRY_BATCHES if dry else BATCHES
    with model_folder(device) as folder:
        for precision in ("fp32",) if dry else ("fp32", "bf16", "auto"):
            name = f"parts, {precision}"
            report.tried(name, lambda p=precision: parts(report, folder, device, p, batches))
        for batch in batches[:1] if dry else (1, 16):
            report.tried(f"pictures, batch {batch}", lambda n=batch: pictures(report, folder, device, n))
    end(report)


def peak(work: Callable[[], Any], device: torch.device) -> float:
    """MiB that `work` takes at most beyond what was there."""
    gc.collect()
    give_back()
    if device.type != "cuda":
        forget_peak()
        before = resident()
        kept = work()
        took = resident("VmHWM") - before
    else:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        allocated = torch.cuda.memory_allocated()
        kept = work()
        torch.cuda.synchronize()
        took = (torch.cuda.max_memory_allocated() - allocated) / MIB
    del kept
    return took


def parts(report: Report, folder: Path, device: torch.device, precision: str, batches: tuple[int, ...]) -> None:
    """Evaluations, decodes and a run of the hungriest sampler."""
    model = ldm_backend.load(folder, device=device, precision=precision)
    config, itemsize = model.config, model.unet.dtype.itemsize
    side, pixels = config.unet.sample_size, config.unet.sample_size * config.vq.downscale
    model.unet(latents(1, config.unet, device), TIMESTEP)  # reads the weights and prepares kernels, whatever the batch
    model.vq.decode(latents(1, config.unet, device))

    def line(part: str, estimate: int, work: Callable[[], Any]) -> None:
        empty_caches(model.unet)
        empty_caches(model.vq)
        took = peak(work, device)
        cells = {"peak, MiB": round(took), "estimate, MiB": round(estimate / MIB)}
        ratio = estimate / MIB / took if took else 0.0
        report.row("Parts", part=part, precision=precision, **cells, **{"estimate / peak": ratio})
        if took > estimate / MIB + GRAIN:
            report.failed(f"{part}, {precision}", f"takes {took:.0f} MiB, estimated were {estimate / MIB:.0f}")

    for n in batches:
        x = latents(n, config.unet, device)
        line(f"UNet, batch {n}", unet_bytes(config.unet, n, side, side, itemsize), lambda x=x: model.unet(x, TIMESTEP))
        if n <= 16:
            line(f"decoder, batch {n}", decoder_bytes(config.vq, n, side, side), lambda x=x: model.vq.decode(x))
        needed = sampling_bytes(config, (n, pixels, pixels), n, itemsize)
        line(f"plms, batch {n}", needed, lambda x=x: sampled(model, x))
    cells = 2 * side
    large = torch.randn(1, config.unet.in_channels, cells, cells, device=device)
    needed = tiled_decode_bytes(config.vq, cells, cells, 32)
    line("tiles, one picture of twice the side", needed, lambda: decode_tiled(model.vq, large, 32))


def sampled(model: ldm_backend.LatentDiffusion, x_T: torch.Tensor) -> torch.Tensor:  # noqa: N803 - the papers' name
    """Three steps, after which the history of the sampler is full."""
    from ldm_backend.sampling.samplers import sample

    return sample("plms", model.unet, x_T, model.schedule, model.schedule.timesteps(3, "leading"))


def pictures(report: Report, folder: Path, device: torch.device, batch: int) -> None:
    """Loading, sampling and decoding, weights included; each side alone on the device."""
    sides: dict[str, Callable[[], Any]] = {"diffusers, fp32": lambda: Diffusers(folder, device, fast=False)}
    formats: set[str] = {"fp32", resolve("auto", device), "bf16" if device.type == "cuda" else "fp32"}
    for precision in sorted(formats, reverse=True):
        first_stage = "bf16" if precision == "bf16" else "fp32"
        sides[f"ours, {precision}"] = lambda p=precision, f=first_stage: Ours(folder, device, p, f)
    theirs = 0.0
    for name, make in sides.items():
        took = peak(lambda make=make: make().pictures(range(batch), 3), device)  # a recorded evaluation included
        theirs = theirs or took
        ratio = took / theirs if theirs else 0.0
        cells = {"peak, MiB": round(took), "it / diffusers fp32": ratio}
        report.row("Whole pictures, weights included", side=name, batch=batch, **cells)


if __name__ == "__main__":
    main()
