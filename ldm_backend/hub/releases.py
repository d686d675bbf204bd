"""Models of CompVis that are on no hub: where they were published."""

from __future__ import annotations

from ..errors import CheckpointError

# Source: CompVis/latent-diffusion, scripts/download_models.sh; of cin256-v2 its notebook, of rdm768x768 its README.
_ADDRESS = "https://ommer-lab.com/files/{}"
_ZOO = "latent-diffusion/"
# Name of its folder there -> file, preset of this project
_RELEASES = {
    "bsr_sr": (_ZOO + "sr_bsr.zip", "super-resolution-4x"),
    "inpainting_big": (_ZOO + "inpainting_big.zip", "inpainting-512"),
    "semantic_synthesis256": (_ZOO + "semantic_synthesis256.zip", "semantic-synthesis-256"),
    "semantic_synthesis512": (_ZOO + "semantic_synthesis.zip", "semantic-synthesis-512"),
    "cin256": (_ZOO + "cin.zip", "imagenet-256-f8"),
    "cin256-v2": (_ZOO + "nitro/cin/model.ckpt", "imagenet-256"),
    "text2img256": (_ZOO + "text2img.zip", "text-to-image-256"),
    "rdm768x768": ("rdm/model.ckpt", "retrieval-768"),
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
