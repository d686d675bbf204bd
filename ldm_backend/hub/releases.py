"""Models of CompVis that are on no hub: where they were published."""

from __future__ import annotations

from ..errors import CheckpointError

# Source: CompVis/latent-diffusion, scripts/download_models.sh; of cin256-v2 its notebook.
_ADDRESS = "https://ommer-lab.com/files/latent-diffusion/{}"
# Name of its folder there -> file, preset of this project
_RELEASES = {
    "bsr_sr": ("sr_bsr.zip", "super-resolution-4x"),
    "inpainting_big": ("inpainting_big.zip", "inpainting-512"),
    "semantic_synthesis256": ("semantic_synthesis256.zip", "semantic-synthesis-256"),
    "semantic_synthesis512": ("semantic_synthesis.zip", "semantic-synthesis-512"),
    "cin256": ("cin.zip", "imagenet-256-f8"),
    "cin256-v2": ("nitro/cin/model.ckpt", "imagenet-256"),
    "text2img256": ("text2img.zip", "text-to-image-256"),
}


def check_on_hub(name: str) -> None:
    """Tell the way to a model that was published elsewhere.

    Raises:
        CheckpointError: It is one of these.
    """
    if name not in _RELEASES:
        return
    file, preset = _RELEASES[name]
    unpacked = ", unpack it" if file.endswith(".zip") else ""
    raise CheckpointError(
        f"{name}: not on the hub, and no checksum of it was published, so that a download could not be verified. Fetch "
        f"{_ADDRESS.format(file)} yourself{unpacked}, and give the file with --config {preset}."
    )
