"""Prompts in API format on the demo model: small, quick, and together of every node type of the pack.

`cycle(number)` gives good ones and bad ones, each with the end that it must come to. Another number gives other seeds
and the same work, so that the host computes anew and one cycle compares with another. Nodes of models that see a
picture are wired to the demos that do, and once more to the one that draws portraits, where they must be refused.
"""

from __future__ import annotations

from . import drawn, guided, trained
from .parts import Case


def cycle(number: int) -> list[Case]:
    """Prompts of every node type of the pack, several sizes and batches, all samplers in the course of time."""
    return [make(100 * number + index) for index, make in enumerate((*drawn.CASES, *trained.CASES, *guided.CASES))]
