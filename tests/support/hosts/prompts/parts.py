"""What prompts in API format on the demos are made of: small and quick ones, and the end that each must come to."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

DEMO, UPSCALER, INPAINTER = "portraits-128", "upscaler-4x", "inpainter-128"
PORTRAYER = "text-portraits-128"
FOLDER = "mixed"  # below the output folder: everything that these prompts save

Link = list[Any]


class Prompt(dict[str, dict[str, Any]]):
    """A prompt, written node by node."""

    def add(self, class_type: str, **inputs: Any) -> Callable[[int], Link]:
        """A node; what is returned gives a link to each of its outputs."""
        node_id = str(len(self) + 1)
        self[node_id] = {"class_type": class_type, "inputs": inputs}
        return lambda output=0: [node_id, output]

    def loader(self, checkpoint: str = DEMO) -> Callable[[int], Link]:
        """A demo model: output 0 is MODEL, 1 is VAE."""
        return self.add("LDMCheckpointLoader", checkpoint=checkpoint)

    def noise(self, seed: int, batch: int = 1, side: int = 64) -> Link:
        """x_T of a batch."""
        return self.add("LDMLatentNoise", seed=seed, width=side, height=side, batch_size=batch)(0)

    def sampled(self, model: Link, latent: Link, steps: int = 2, **more: Any) -> Link:
        """Finished latents."""
        settings = {"sampler": "unipc", "grid": "log_snr"} | more
        return self.add("LDMSampler", model=model, latent=latent, steps=steps, **settings)(0)

    def ddim(self, model: Link, latent: Link, steps: int = 2, **more: Any) -> Link:
        """Finished latents, by the exact sampler."""
        settings = {"eta": 0.0, "grid": "leading"} | more
        return self.add("LDMDDIMSampler", model=model, latent=latent, steps=steps, **settings)(0)

    def decoded(self, vae: Link, latent: Link) -> Link:
        """Images."""
        return self.add("LDMVQDecode", vae=vae, latent=latent)(0)

    def save(self, images: Link, prefix: str = f"{FOLDER}/core") -> None:
        """The host's own saver."""
        self.add("SaveImage", images=images, filename_prefix=prefix)

    def save_ours(self, images: Link, latent: Link, prefix: str = f"{FOLDER}/ours") -> None:
        """The pack's saver."""
        self.add("LDMSaveImage", images=images, latent=latent, filename_prefix=prefix)


@dataclass(frozen=True)
class Case:
    """A prompt and its end: "done" with so many saved images, "refused", "failed", or "cancelled" at its first step."""

    name: str
    prompt: Prompt
    end: str = "done"
    images: int = 0


def portrait(seed: int, batch: int = 1, side: int = 64, steps: int = 2, prefix: str = f"{FOLDER}/ours") -> Prompt:
    """The core graph, saved by the pack's own node."""
    prompt = Prompt()
    loader = prompt.loader()
    latent = prompt.ddim(loader(0), prompt.noise(seed, batch, side), steps)
    prompt.save_ours(prompt.decoded(loader(1), latent), latent, prefix)
    return prompt


def noise_pictures(seed: int, batch: int, side: int, prefix: str) -> Prompt:
    """Decoded noise, without a sampler: much to save after little work, and hard to compress."""
    prompt = Prompt()
    latent = prompt.noise(seed, batch, side)
    prompt.save_ours(prompt.decoded(prompt.loader()(1), latent), latent, prefix)
    return prompt
