"""The two programs that text.py compares, as speed_sides.py runs them, and random weights of the released size."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from speed_sides import SEED, Clock

PROMPTS = ("a red house", "a smiling woman", "a boat on a lake", "two cats with glasses")


def write_texts(folder: Path) -> None:
    """Random weights of the size of text2img-large, as a folder that both sides load."""
    import torch
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

    from ldm_backend.checkpoints.checkpoint import Checkpoint
    from ldm_backend.checkpoints.conversion import convert_to_folder
    from ldm_backend.config.presets import TEXT_TO_IMAGE_LARGE_256 as CONFIG
    from ldm_backend.networks.conditioners.text_encoder import TextEncoder
    from ldm_backend.texts.vocabulary import bert_vocabulary

    torch.manual_seed(0)
    unet: Any = UNet2DConditionModel.from_config(CONFIG.unet.to_dict())
    first_stage: Any = AutoencoderKL.from_config(CONFIG.first_stage.to_dict())
    settings: Any = CONFIG.conditioning
    with torch.device("meta"):
        shapes = TextEncoder(settings).state_dict()
    encoder = {key: 0.02 * torch.randn(one.shape) for key, one in shapes.items()}
    for key in encoder:
        if "norm" in key and key.endswith("weight"):
            encoder[key] += 1.0
    weights = (unet.state_dict(), first_stage.state_dict(), encoder)
    nowhere = Path("random")
    convert_to_folder(
        Checkpoint(nowhere, nowhere, nowhere, "huggingface", "only", CONFIG, *weights, vocabulary=bert_vocabulary()),
        folder,
    )


class Ours:
    """ldm_backend, by the sampler of the original."""

    def __init__(self, clock: Clock) -> None:
        import ldm_backend.pipeline

        self.backend = ldm_backend
        self.clock = clock

    def load(self, folder: Path) -> None:
        """The model from a Hugging Face folder."""
        self.model = self.backend.load(folder, device="cpu")

    def image(self, batch: int, steps: int, cfg: float) -> np.ndarray:
        """uint8 (N, H, W, 3), a text for each; each step ends with one of the clock."""
        return self.backend.generate(
            self.model, range(SEED, SEED + batch), steps, prompts=PROMPTS[:batch], cfg=cfg,
            callback=lambda _: self.clock.step(),
        )  # fmt: skip


class Diffusers:
    """diffusers' LDMTextToImagePipeline."""

    def __init__(self, clock: Clock) -> None:
        from diffusers.pipelines.latent_diffusion.pipeline_latent_diffusion import LDMTextToImagePipeline

        from ldm_backend.sampling.noise import draw_noise

        self.pipeline_class, self.draw_noise = LDMTextToImagePipeline, draw_noise
        self.clock = clock

    def load(self, folder: Path) -> None:
        """The pipeline; the clock has no other way into its loop than a hook."""
        self.pipeline: Any = self.pipeline_class.from_pretrained(folder, local_files_only=True)
        self.pipeline.set_progress_bar_config(disable=True)
        self.pipeline.unet.register_forward_hook(lambda *_: self.clock.step())

    def image(self, batch: int, steps: int, cfg: float) -> np.ndarray:
        """uint8 (N, H, W, 3) from the noise of ours; each evaluation ends with a step of the clock."""
        config = self.pipeline.unet.config
        size = config.sample_size
        side = 8 * size  # what the pipeline takes latents of this size for, whatever its first stage
        x_T = self.draw_noise(range(SEED, SEED + batch), (config.in_channels, size, size))
        made = self.pipeline(
            list(PROMPTS[:batch]), side, side, steps, guidance_scale=cfg, latents=x_T,
            output_type="np",
        )  # fmt: skip
        return (255.0 * made.images).astype(np.uint8)


PROGRAMS = {"ours": Ours, "diffusers": Diffusers}
