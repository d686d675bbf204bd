"""Models of CompVis that are on no hub: where they were published."""

from __future__ import annotations

from ..errors import CheckpointError

# Source: CompVis/latent-diffusion, scripts/download_models.sh.
_ADDRESS = "https://ommer-lab.com/files/latent-diffusion/{}.zip"
# Name of its folder there -> file, preset of this project
_RELEASES = {
    "bsr_sr": ("sr_bsr", "super-resolution-4x"),
    "inpainting_big": ("inpainting_big", "inpainting-512"),
    "semantic_synthesis256": ("semantic_synthesis256", "semantic-synthesis-256"),
    "semantic_synthesis512": ("semantic_synthesis", "semantic-synthesis-512"),
}


def check_on_hub(name: str) -> None:
    """Tell the way to a model that was published elsewhere.

    Raises:
        CheckpointError: It is one of these.
    """
    if name not in _RELEASES:
        return
    file, preset = _RELEASES[name]
    raise CheckpointError(
        f"{name}: not on the hub, and no checksum of it was published, so that a download could not be verified. Fetch "
        f"{_ADDRESS.format(file)} yourself, unpack it, and give the file in it with --config {preset}."
    )
