"""New seeds for a latent that an image was encoded to."""

from __future__ import annotations

from typing import Any, cast

from .latent_batch import INDEX_KEY, LABELS_KEY, SEED_KEY, batch_indices, image_seeds


def seeded(latent: dict[str, Any], seed: int) -> tuple[list[int], dict[str, Any]]:
    """The seed of each image, and the latent with what later nodes need to know of them.

    Raises:
        InputError: The latent's batch_index does not fit its batch.
    """
    kept = {key: value for key, value in latent.items() if key != LABELS_KEY}  # they name the noise of before
    carrier = kept | {INDEX_KEY: batch_indices(latent), SEED_KEY: seed}
    return cast(list[int], image_seeds(carrier)), carrier
