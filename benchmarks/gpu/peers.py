"""The programs that stage 4 compares, with the same weights: an evaluation, a decode, a batch of whole pictures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from stage import TIMESTEP, latents
from torch import Tensor

import ldm_backend


class Side(Protocol):
    """A program; `config` has the shape of its latents, `compiled` costs minutes for each batch size."""

    name: str
    config: Any
    compiled: bool

    def evaluate(self, x: Tensor) -> Tensor:
        """The UNet once."""
        ...

    def decode(self, z: Tensor) -> Tensor:
        """Latents to pictures on the device, quantised first."""
        ...

    def pictures(self, seeds: Sequence[int], steps: int) -> np.ndarray:
        """Whole pictures by DDIM, uint8 in the memory of the host."""
        ...


class Ours:
    """ldm_backend.

    Args:
        folder: of the weights.
        device: to run on.
        precision: of the UNet.
        first_stage: precision of the first stage.
        compiled: the UNet.
    """

    def __init__(
        self, folder: Path, device: torch.device, precision: str, first_stage: str = "fp32", compiled: bool = False
    ) -> None:
        ends = (f", first stage {first_stage}" if first_stage != "fp32" else "", ", compiled" if compiled else "")
        self.name, self.compiled = f"ours, {precision}{''.join(ends)}", compiled
        self.model = ldm_backend.load(
            folder, device=device, precision=precision, first_stage_precision=first_stage, compiled=compiled
        )
        self.config = self.model.config.unet

    def evaluate(self, x: Tensor) -> Tensor:
        """The UNet once."""
        return self.model.unet(x, TIMESTEP)

    def decode(self, z: Tensor) -> Tensor:
        """In one batch; `generate` takes up to 8 at once on a card."""
        return self.model.first_stage.decode(z)

    def pictures(self, seeds: Sequence[int], steps: int) -> np.ndarray:
        """What users call."""
        return ldm_backend.generate(self.model, list(seeds), steps)


class Diffusers:
    """diffusers' networks and the loop of the model card.

    Args:
        folder: of the weights.
        device: to run on.
        fast: bf16, channels_last and max-autotune, the real peer; else float32 as its documentation has it. Where no
            card is, "aot_eager" stands for max-autotune, which would compile for minutes and show nothing.
    """

    def __init__(self, folder: Path, device: torch.device, fast: bool) -> None:
        from diffusers.models.autoencoders.vq_model import VQModel
        from diffusers.models.unets.unet_2d import UNet2DModel
        from diffusers.schedulers.scheduling_ddim import DDIMScheduler

        classes: tuple[Any, ...] = (UNet2DModel, VQModel, DDIMScheduler)
        unet, vq, self.scheduler = (
            cls.from_pretrained(folder, subfolder=part, local_files_only=True)
            for cls, part in zip(classes, ("unet", "vqvae", "scheduler"), strict=True)
        )
        self.device, self.dtype, self.compiled = device, torch.bfloat16 if fast else torch.float32, fast
        self.layout = torch.channels_last if fast else torch.contiguous_format
        self.t = torch.tensor(TIMESTEP, device=device)  # a tensor as in the loop: for a number it would compile anew
        self.config, how = unet.config, "eager"
        self.unet, self.vq = unet.to(device, self.dtype).eval(), vq.to(device, self.dtype).eval()
        if fast:
            settings: dict[str, Any] = {"mode": "max-autotune"} if device.type == "cuda" else {"backend": "aot_eager"}
            self.unet = torch.compile(self.unet.to(memory_format=torch.channels_last), dynamic=False, **settings)
            self.vq = self.vq.to(memory_format=torch.channels_last)
            self._decode = torch.compile(self.vq.decode, dynamic=False, **settings)
            how = next(iter(settings.values()))
        else:
            self._decode = self.vq.decode
        self.name = f"diffusers, {'bf16 channels_last, ' if fast else 'fp32 '}{how}"

    def evaluate(self, x: Tensor) -> Tensor:
        """The UNet once. A copy of the result: a CUDA graph writes the next one into the same place."""
        return self.unet(self.taken(x), self.t).sample.clone()

    def decode(self, z: Tensor) -> Tensor:
        """In one batch."""
        return self._decode(self.taken(z)).sample.clone()

    def taken(self, x: Tensor) -> Tensor:
        """In the format and layout that the networks were compiled for; what comes from a step may have another."""
        return x.to(self.dtype).contiguous(memory_format=self.layout)

    def pictures(self, seeds: Sequence[int], steps: int) -> np.ndarray:
        """The model card's loop."""
        x = latents(len(seeds), self.config, self.device).to(self.dtype)
        self.scheduler.set_timesteps(num_inference_steps=steps)
        for t in self.scheduler.timesteps:
            residual = self.unet(self.taken(x), t.to(self.device)).sample
            x = self.scheduler.step(residual, t, x, eta=0.0).prev_sample
        decoded = self.decode(x).float()
        return ((decoded.permute(0, 2, 3, 1) + 1) * 127.5).clamp(0, 255).cpu().numpy().astype(np.uint8)
