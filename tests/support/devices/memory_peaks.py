"""A program: runs parts of the demo model and prints, for each, what was estimated and what its peak really took."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from resident import forget_peak, resident

import ldm_backend
from ldm_backend.config.model import UNetConfig
from ldm_backend.editing.interpolation import slerp
from ldm_backend.kernels.fast_conv import empty_caches, kernel_bytes
from ldm_backend.memory.estimates import (
    decoder_bytes,
    encoder_bytes,
    noise_bytes,
    path_bytes,
    sampling_bytes,
    tiled_decode_bytes,
    unet_bytes,
)
from ldm_backend.networks.precision import set_first_stage_precision
from ldm_backend.networks.tiled_decode import decode_tiled
from ldm_backend.networks.unet import UNet
from ldm_backend.sampling.noise import draw_noise
from ldm_backend.sampling.samplers import sample

# With transformers at the finest level, where they take the most.
ATTENDING = UNetConfig(
    block_out_channels=(64, 128),
    down_block_types=("CrossAttnDownBlock2D",) * 2,
    up_block_types=("CrossAttnUpBlock2D",) * 2,
    cross_attention_dim=64,
)


def peak(work: Callable[[], Any]) -> int:
    """Bytes that `work` takes at most beyond what was resident before."""
    forget_peak()
    before = resident()
    kept = work()
    took = resident(field="VmHWM") - before
    del kept
    return took


@torch.inference_mode()
def main(checkpoint: Path) -> None:
    """Prints {name: [estimate, peak]} as JSON."""
    model = ldm_backend.load(checkpoint, device="cpu")
    unet, vq, config = model.unet, model.first_stage, model.config
    small = torch.zeros(1, 3, 32, 32)
    found = {"first evaluation": [kernel_bytes(unet), 0]}
    unet(small, 1.0)
    vq.decode(small)
    found["first evaluation"][1] = found["first evaluation"][0] - kernel_bytes(unet)

    def measure(name: str, estimate: int, work: Callable[[], Any]) -> None:
        empty_caches(unet)
        empty_caches(vq)
        found[name] = [estimate, peak(work)]

    for n, side in ((24, 64), (1, 160)):
        x = torch.randn(n, 3, side, side)
        measure(f"unet {n}x{side}", unet_bytes(config.unet, n, side, side), lambda x=x: unet(x, 500.0))
    attending, context = UNet(ATTENDING).eval(), torch.randn(16, 9, ATTENDING.cross_attention_dim or 0)
    attending(small, 1.0, context[:1])
    x = torch.randn(16, 3, 64, 64)
    measure("unet with a context", unet_bytes(ATTENDING, 16, 64, 64), lambda: attending(x, 500.0, context))
    for n, side in ((8, 64), (1, 128)):
        z = torch.randn(n, 3, side, side)
        measure(f"decoder {n}x{side}", decoder_bytes(config.first_stage, n, side, side), lambda z=z: vq.decode(z))
    x = torch.rand(1, 3, 640, 640)
    measure("encoder", encoder_bytes(config.first_stage, 1, 640, 640), lambda: vq.encode(x))
    z = torch.randn(1, 3, 160, 160)
    measure("tiles", tiled_decode_bytes(config.first_stage, 160, 160, 32), lambda: decode_tiled(vq, z, 32))
    set_first_stage_precision(vq, "bf16")
    z = torch.randn(1, 3, 64, 64)
    vq.decode(small)
    measure("decoder in bf16", decoder_bytes(config.first_stage, 1, 64, 64, 2), lambda: vq.decode(z))
    measure("tiles in bf16", tiled_decode_bytes(config.first_stage, 64, 64, 32, 2), lambda: decode_tiled(vq, z, 32))
    measure("noise", noise_bytes(24 * 3 * 512**2), lambda: draw_noise(range(24), (3, 512, 512)))
    a, b = torch.randn(2, 4, 3, 512, 512)
    numbers = a.numel()
    measure("path", path_bytes(numbers, numbers), lambda: slerp(a, b, 0.3))
    for sampler in ("ddim", "dpmpp_3m", "unipc", "plms"):
        x_T, pairs = torch.randn(256, 3, 64, 64), model.schedule.timesteps(4, "trailing")  # noqa: N806 - the papers' name
        size = (256, 256, 256)
        zeros = lambda x_t, t: torch.zeros_like(x_t)  # noqa: E731 - the latents alone, without a network
        estimate = sampling_bytes(config, size, 0)
        measure(
            f"latents of {sampler}",
            estimate,
            lambda s=sampler, x=x_T, p=pairs, e=zeros: sample(s, e, x, model.schedule, p),
        )
    print(json.dumps(found))  # noqa: T201 - it is what the program is for


if __name__ == "__main__":
    main(Path(sys.argv[1]))
