"""A program: takes gradients of guides through the demo model and prints, for each, the estimate and the real peak."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from memory_peaks import peak
from torch import Tensor

import ldm_backend
from ldm_backend.guidance.costs import gradient_bytes
from ldm_backend.guidance.gradients import gradient, tracked, with_gradients
from ldm_backend.guidance.losses import MeanColour, Style
from ldm_backend.guidance.space import Space
from ldm_backend.memory.chunks import give_back


def main(checkpoint: Path) -> None:
    """Prints {name: [estimate, peak]} as JSON."""
    model = ldm_backend.load(checkpoint, device="cpu")
    stage, unet, found = model.first_stage, model.unet, {}

    def measure(name: str, n: int, side: int, styled: bool, clean: Callable[[Tensor], Tensor] | None) -> None:
        space = Space(stage, n, 4 * side, 4 * side)
        wanted = Style(torch.rand(1, 4 * side, 4 * side, 3)) if styled else MeanColour((1.0, 0.0, 0.0))
        loss, z = wanted.loss(space), torch.randn(n, 3, side, side)

        def work() -> Tensor:
            with with_gradients():
                x = tracked(z)
                if clean is None:
                    return gradient(stage, loss, x, slice(None))
                return gradient(stage, loss, clean(x), slice(None), x)

        give_back()  # what the last one took would not be taken again
        size = (n, 4 * side, 4 * side)
        found[name] = [gradient_bytes(space, None if clean is None else unet, styled, size), peak(work)]

    measure("warm", 1, 8, False, None)
    del found["warm"]
    for n, side in ((1, 80), (3, 48)):
        measure(f"decoder {n}x{side}", n, side, False, None)
        measure(f"decoder and encoder {n}x{side}", n, side, True, None)
        measure(f"decoder and unet {n}x{side}", n, side, False, lambda x: unet(x, 500.0))
    print(json.dumps(found))  # noqa: T201 - it is what the program is for


if __name__ == "__main__":
    main(Path(sys.argv[1]))
