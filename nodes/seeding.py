"""New seeds for a latent that an image was encoded to."""

from __future__ import annotations

from typing import Any, cast

from .latents import image_seeds


def seeded(latent: dict[str, Any], seed: int) -> tuple[list[int], dict[str, Any]]:
    """The seed of each image, and the latent with what later nodes need to know of them.

    Raises:
        InputError: the latent's batch_index does not fit its batch.
    """
    batch_index = list(latent.get("batch_index", range(latent["samples"].shape[0])))
    kept = {key: value for key, value in latent.items() if key != "ldm_labels"}  # they name the noise of before
    carrier = kept | {"batch_index": batch_index, "ldm_seed": seed}
    return cast(list[int], image_seeds(carrier)), carrier
