"""Seeds as text: `0-49999`, `3,7,100-199`. Imports the errors only."""

import re
from collections.abc import Sequence
from itertools import pairwise

from ldm_backend.errors import printable

from .errors import JobError

MAX_SEED = 2**64 - 1
MAX_IMAGES = 10_000_000
_PART = re.compile(r"(\d{1,20})(?:-(\d{1,20}))?")


def parse_seeds(text: str) -> list[int]:
    """Seeds in the order in which they are written.

    Args:
        text: Seeds and ranges, both ends included, with commas between them.

    Raises:
        JobError: Not of this form, a seed out of range, twice, or more than `MAX_IMAGES`.
    """
    seeds: list[int] = []
    for part in text.split(","):
        match = _PART.fullmatch(part.strip())
        if match is None:
            raise JobError(
                f"cannot read {printable(part.strip())!r} in --seeds; expected seeds and ranges such as "
                "0-99,200,300-399"
            )
        first, last = int(match[1]), int(match[2] or match[1])
        if not first <= last <= MAX_SEED:
            raise JobError(f"--seeds {part.strip()}: expected first <= last <= 2**64 - 1")
        if len(seeds) + last - first >= MAX_IMAGES:
            raise JobError(f"--seeds names more than {MAX_IMAGES:,} images; split the run over several folders")
        seeds.extend(range(first, last + 1))
    if len(set(seeds)) < len(seeds):
        ordered = sorted(seeds)
        twice = next(seed for seed, following in pairwise(ordered) if seed == following)
        raise JobError(f"--seeds names the seed {twice} twice; name each once")
    return seeds


def format_seeds(seeds: Sequence[int]) -> str:
    """The shortest text that `parse_seeds` reads as these seeds."""
    parts: list[str] = []
    start = 0
    for end in range(1, len(seeds) + 1):
        if end == len(seeds) or seeds[end] != seeds[end - 1] + 1:
            parts.append(f"{seeds[start]}" if end - start == 1 else f"{seeds[start]}-{seeds[end - 1]}")
            start = end
    return ",".join(parts)
