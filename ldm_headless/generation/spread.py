"""How evenly the images of a folder are spread over the texts or classes of their job. Imports the siblings."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import JobError
from ..seed_ranges import parse_seeds
from .held_folder import JOB, read_job
from .wishes import NOTHING_WISHED

_KINDS = ("classes", "prompts")
_LARGEST_CFG = 1e6  # of files that anybody may have written


@dataclass(frozen=True)
class Spread:
    """Over what images are spread.

    Attributes:
        kind: "classes" or "prompts".
        count: How many different ones the job has.
        least, most: Images of the one that has the fewest, and the most; even where they are equal.
        cfg: Scale of guidance of the job.
        negative: What it leads away from.
    """

    kind: str
    count: int
    least: int
    most: int
    cfg: float
    negative: str


def spread_of(folder: Path, keys: Iterable[object]) -> Spread | None:
    """The spread of those images that are there; None where the folder says of no job of texts or classes.

    Args:
        folder: Perhaps one of `ldm generate`.
        keys: Seeds of its images, among other names.
    """
    try:
        found = read_job(folder / JOB)
        settings = found.get("settings") if isinstance(found, dict) else None
        if not isinstance(found, dict) or not isinstance(settings, dict) or not isinstance(found.get("seeds"), str):
            return None
        seeds = parse_seeds(found["seeds"])
    except (OSError, ValueError, JobError):
        return None
    said = {**NOTHING_WISHED, **settings}
    kind = next((kind for kind in _KINDS if said[kind]), None)
    return _counted(kind, said, seeds, set(keys)) if kind and _is_sound(said, kind) else None


def _is_sound(said: dict[str, Any], kind: str) -> bool:
    one = str if kind == "prompts" else int | None
    return (
        isinstance(said[kind], list)
        and all(isinstance(wish, one) for wish in said[kind])
        and type(said["cfg"]) in (int, float)
        and -_LARGEST_CFG < said["cfg"] < _LARGEST_CFG
        and isinstance(said["negative"], str)
    )


def _counted(kind: str, said: dict[str, Any], seeds: list[int], there: set[object]) -> Spread:
    wishes = said[kind]
    images: Counter[object] = Counter(dict.fromkeys(wishes, 0))
    images.update(wishes[place % len(wishes)] for place, seed in enumerate(seeds) if seed in there)
    return Spread(kind, len(images), min(images.values()), max(images.values()), float(said["cfg"]), said["negative"])
