"""The three programs that upscale.py compares, as speed_sides.py runs them, and random weights of the released size."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from speed_sides import SEED, Clock

SCALE = 4  # of each side


def write_upscaler(folder: Path) -> None:
    """Random weights of the size of the released upscaler, as diffusers' pipeline saves them."""
    import torch
    from diffusers.models.autoencoders.vq_model import VQModel
    from diffusers.models.unets.unet_2d import UNet2DModel
    from diffusers.pipelines.latent_diffusion.pipeline_latent_diffusion_superresolution import (
        LDMSuperResolutionPipeline,
    )
    from diffusers.schedulers.scheduling_ddim import DDIMScheduler

    from ldm_backend.config.presets import SUPER_RESOLUTION_4X as CONFIG

    torch.manual_seed(0)
    unet: Any = UNet2DModel.from_config(CONFIG.unet.to_dict())
    vq: Any = VQModel.from_config(CONFIG.first_stage.to_dict())
    scheduler: Any = DDIMScheduler.from_config(CONFIG.schedule.to_dict())
    torch.nn.init.normal_(vq.quantize.embedding.weight)  # see common.write_weights
    LDMSuperResolutionPipeline(vq, unet, scheduler).save_pretrained(folder)


class Ours:
    """ldm_backend at its defaults."""

    def __init__(self, clock: Clock) -> None:
        import ldm_backend.tasks.upscale

        self.backend = ldm_backend
        self.clock = clock

    def load(self, folder: Path) -> None:
        """The model from a Hugging Face folder."""
        self.model = self.backend.load(folder, device="cpu")

    def image(self, small: np.ndarray, steps: int) -> np.ndarray:
        """uint8 (H, W, 3) enlarged; each step ends with one of the clock."""
        return self.backend.upscale(self.model, small[None], [SEED], steps, callback=lambda _: self.clock.step())[0]


class Original:
    """The way of the original's scripts: DDIM with eta 1, and all that they compute beside the result.

    They encode the enlarged picture, decode that again, and decode the sample twice, with and without quantising it:
    one of the three decodes makes the result. Here the networks are those of diffusers, and nothing is cut into tiles.
    """

    def __init__(self, clock: Clock) -> None:
        import torch
        from diffusers.models.autoencoders.vq_model import VQModel
        from diffusers.models.unets.unet_2d import UNet2DModel

        self.torch, self.classes = torch, (UNet2DModel, VQModel)
        self.clock = clock

    def load(self, folder: Path) -> None:
        """Both networks, and the schedule as the original has it: linear in the square root of beta."""
        networks: list[Any] = [
            cls.from_pretrained(folder, subfolder=part, local_files_only=True)
            for cls, part in zip(self.classes, ("unet", "vqvae"), strict=True)
        ]
        self.unet, self.vq = networks
        schedule = json.loads((folder / "scheduler" / "scheduler_config.json").read_text())
        roots = (schedule[name] ** 0.5 for name in ("beta_start", "beta_end"))
        betas = self.torch.linspace(*roots, schedule["num_train_timesteps"], dtype=self.torch.float64) ** 2
        self.alphas_cumprod = (1.0 - betas).cumprod(dim=0)
        self.velocity = schedule["prediction_type"] == "v_prediction"  # else the noise, as the original

    def image(self, small: np.ndarray, steps: int, eta: float = 1.0) -> np.ndarray:
        """uint8 (H, W, 3) enlarged; each step ends with one of the clock."""
        c = self.torch.from_numpy(small).permute(2, 0, 1)[None].float() / 127.5 - 1.0
        interpolate = self.torch.nn.functional.interpolate
        enlarged = interpolate(c, scale_factor=SCALE, mode="bilinear", antialias=True)
        self.vq.decode(self.vq.encode(enlarged).latents)
        z = self.sample(c, steps, eta)
        self.vq.decode(z, force_not_quantize=True)
        unit = ((self.vq.decode(z).sample + 1.0) / 2.0).clamp(0.0, 1.0)
        return (255.0 * unit[0].permute(1, 2, 0)).numpy().astype(np.uint8)

    def sample(self, c: Any, steps: int, eta: float) -> Any:
        """DDIM (arXiv 2010.02502, eq. 12 and 16) on the original's timesteps: 1, 11, ..., 991, then 0 for 100 steps."""
        generator = self.torch.Generator().manual_seed(SEED)
        x = self.torch.randn((1, self.unet.config.out_channels, *c.shape[2:]), generator=generator)
        total = len(self.alphas_cumprod)
        grid = range(1, total + 1, total // steps)[:steps]
        for t, previous in zip(reversed(grid), [*reversed(grid[:-1]), 0], strict=True):
            eps = self.unet(self.torch.cat([x, c], dim=1), t).sample
            a, a_prev = (float(self.alphas_cumprod[time]) for time in (t, previous))
            if self.velocity:
                eps = a**0.5 * eps + (1.0 - a) ** 0.5 * x
            sigma = eta * ((1.0 - a_prev) / (1.0 - a) * (1.0 - a / a_prev)) ** 0.5
            pred_x0 = (x - (1.0 - a) ** 0.5 * eps) / a**0.5
            noise = self.torch.randn(x.shape, generator=generator)
            x = a_prev**0.5 * pred_x0 + (1.0 - a_prev - sigma**2) ** 0.5 * eps + sigma * noise
            self.clock.step()
        return x


class Diffusers:
    """diffusers' LDMSuperResolutionPipeline at its defaults."""

    def __init__(self, clock: Clock) -> None:
        import torch
        from diffusers.pipelines.latent_diffusion.pipeline_latent_diffusion_superresolution import (
            LDMSuperResolutionPipeline,
        )
        from PIL import Image

        self.torch, self.pipeline_class, self.pil = torch, LDMSuperResolutionPipeline, Image
        self.clock = clock

    def load(self, folder: Path) -> None:
        """The pipeline; the clock has no other way into its loop than a hook."""
        self.pipeline: Any = self.pipeline_class.from_pretrained(folder, local_files_only=True)
        self.pipeline.set_progress_bar_config(disable=True)
        self.pipeline.unet.register_forward_hook(lambda *_: self.clock.step())

    def image(self, small: np.ndarray, steps: int) -> np.ndarray:
        """uint8 (H, W, 3) enlarged; each evaluation ends with a step of the clock."""
        generator = self.torch.Generator().manual_seed(SEED)
        made = self.pipeline(self.pil.fromarray(small), num_inference_steps=steps, generator=generator)
        return np.array(made.images[0])


PROGRAMS = {"ours": Ours, "original": Original, "diffusers": Diffusers}
STEPS = {"original": 100, "diffusers": 100}  # of the scripts, and the pipeline's default; ours are those of `upscale`
