"""What `ldm generate` makes: settings, seeds, and where each image goes. Imports seed_ranges, wishes and the errors.

An image is decided by its seed, the settings, and the batch it is sampled in: float arithmetic may differ in the last
bits between batches of different sizes. Batches are therefore cut from the list of seeds at fixed places, so that a run
that goes on, or one on many machines, samples the same batches as a run in one go.
"""

import hashlib
import json
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from functools import cached_property
from typing import Any, Protocol

from ldm_backend.errors import printable, short_repr

from ..errors import JobError
from ..seed_ranges import format_seeds, parse_seeds
from .wishes import NO_WISHES, NOTHING_WISHED, Wish, Wishes

NPZ_NAME = "images.npz"

# Settings that came later, and what holds where a job does not name them. Jobs that keep to that do not name them, so
# that they are the jobs which they were before, and go on.
_LATER = {"first_stage_precision": "fp32", "height": None, "width": None, "timesteps": None, "coefficients": None}


class Format(StrEnum):
    """Of the output."""

    PNG = "png"
    WEBDATASET = "webdataset"
    NPZ = "npz"


class Computation(Protocol):
    """What the settings of every job say of how it is computed; see `Settings`."""

    @property
    def checkpoint(self) -> str:
        """Its hash."""
        ...

    @property
    def device(self) -> str:
        """Where."""
        ...

    @property
    def precision(self) -> str:
        """Of the UNet."""
        ...

    @property
    def first_stage_precision(self) -> str:
        """Of encoder and decoder."""
        ...

    @property
    def threads(self) -> int:
        """Of torch in one worker."""
        ...

    @property
    def torch(self) -> str:
        """Its version."""
        ...

    @property
    def ldm(self) -> str:
        """The version of this package."""
        ...


@dataclass(frozen=True)
class Settings:
    """Everything beside the seed that decides pixels.

    Attributes:
        checkpoint: SHA-256 over the hashes of the weight files, the choice of weights, and the configuration.
        device: "cpu" or "cuda".
        precision: Of the UNet: "fp32", "bf16", "fp16" or "tf32".
        first_stage_precision: "fp32" or "bf16".
        compiled: As for `ldm_backend.load`; the order of sums is another one.
        threads: Of torch in one worker; other numbers sum in another order.
        torch, ldm: Versions.
        height, width: Of the images in pixels; None is the training size.
        timesteps: Of the grid "fitted", with commas between them; None with other grids, which are told by their names.
        coefficients: Of the same, those of each step with commas, and semicolons between the steps.
    """

    checkpoint: str
    steps: int
    eta: float
    sampler: str
    grid: str
    batch: int
    device: str
    precision: str
    first_stage_precision: str
    compiled: bool
    threads: int
    torch: str
    ldm: str
    height: int | None = None
    width: int | None = None
    timesteps: str | None = None
    coefficients: str | None = None

    def to_json(self) -> dict[str, Any]:
        """What identifies a job."""
        return {name: value for name, value in asdict(self).items() if _LATER.get(name) != value}


@dataclass(frozen=True)
class Unit:
    """One batch: `seeds` are sampled together, `wanted` of them are still missing.

    Attributes:
        wishes: What each of the seeds is to show, in their order.
    """

    seeds: tuple[int, ...]
    wanted: tuple[int, ...]
    wishes: tuple[Wish, ...]


@dataclass(frozen=True)
class Place:
    """Where an image is in the end: a file, and which member or row of it."""

    file: str
    member: str | None = None
    row: int | None = None


@dataclass(frozen=True)
class Job:
    """One run into one folder."""

    settings: Settings
    seeds: tuple[int, ...]
    format: Format
    shard_size: int
    wishes: Wishes = NO_WISHES

    @cached_property
    def digest(self) -> str:
        """Identifies the settings in the images' metadata."""
        return hashlib.sha256(json.dumps(self._identity(), sort_keys=True).encode()).hexdigest()

    def wish(self, seed: int) -> Wish:
        """What the image of a seed is to show."""
        return self.wishes.of(self._order[seed] if self.wishes.prompts or self.wishes.classes else 0)

    def info(self, seed: int, machine: str) -> dict[str, Any]:
        """See `picture_info`."""
        return picture_info(self.settings, self.digest, seed, machine, self.wish(seed))

    @cached_property
    def _order(self) -> dict[int, int]:
        return {seed: place for place, seed in enumerate(self.seeds)}

    def _identity(self) -> dict[str, Any]:
        return self.settings.to_json() | self.wishes.to_json()

    def marks(self, seed: int) -> dict[str, Any]:
        """What an image of this job says of itself, and no other does."""
        return {"job": self.digest, "seed": seed}

    def units(self, done: Collection[int]) -> Iterator[Unit]:
        """The batches that hold missing images, in order."""
        batch = self.settings.batch
        for start in range(0, len(self.seeds), batch):
            seeds = self.seeds[start : start + batch]
            wanted = tuple(seed for seed in seeds if seed not in done)
            if wanted:
                yield Unit(seeds, wanted, tuple(self.wishes.of(start + at) for at in range(len(seeds))))

    def shards(self) -> dict[str, tuple[int, ...]]:
        """Name -> seeds of each file that holds many images; none for PNG."""
        if self.format is Format.PNG:
            return {}
        if self.format is Format.NPZ:
            return {NPZ_NAME: self.seeds}
        starts = range(0, len(self.seeds), self.shard_size)
        return {f"shard-{at // self.shard_size:06d}.tar": self.seeds[at : at + self.shard_size] for at in starts}

    def places(self) -> dict[int, Place]:
        """Where the image of each seed goes."""
        if self.format is Format.PNG:
            return {seed: Place(png_name(seed)) for seed in self.seeds}
        if self.format is Format.NPZ:
            return {seed: Place(NPZ_NAME, row=row) for row, seed in enumerate(self.seeds)}
        return {seed: Place(name, member=png_name(seed)) for name, seeds in self.shards().items() for seed in seeds}

    def to_json(self) -> dict[str, Any]:
        """What `job.json` holds."""
        return {
            "settings": self._identity(),
            "seeds": format_seeds(self.seeds),
            "format": self.format.value,
            "shard_size": self.shard_size if self.format is Format.WEBDATASET else None,
        }


def png_name(seed: int) -> str:
    """File name of one image."""
    return f"seed-{seed}.png"


def picture_info(settings: Settings, digest: str, seed: int, machine: str, wish: Wish) -> dict[str, Any]:
    """What an image says of itself, in its text chunk.

    Args:
        settings: Of the job.
        digest: Of the job.
        seed: Of the image.
        machine: Which made it.
        wish: What it is to show.
    """
    return {"seed": seed, "job": digest, "machine": machine, **asdict(settings), **wish.to_json()}


def grown_from(found: object, job: Job) -> Job | None:
    """The job of a folder, where another one is the same with more seeds after its own; else None.

    Its last batch and shard must be whole: those of the larger job would hold more.

    Args:
        found: The parsed `job.json`.
        job: The other one.
    """
    if not isinstance(found, dict) or not isinstance(found.get("settings"), dict) or job.format is Format.NPZ:
        return None
    wanted = job.to_json()
    if {**wanted, "seeds": None} != {**found, "seeds": None} or not isinstance(found.get("seeds"), str):
        return None
    try:
        seeds = tuple(parse_seeds(found["seeds"]))
    except JobError:
        return None
    shard = job.shard_size if job.format is Format.WEBDATASET else 1
    whole = not len(seeds) % job.settings.batch and not len(seeds) % shard
    return replace(job, seeds=seeds) if whole and seeds == job.seeds[: len(seeds)] != job.seeds else None


def check_same_job(found: object, wanted: Mapping[str, Any], source: str) -> None:
    """Refuse to go on in the folder of another job.

    Args:
        found: The parsed `job.json`.
        wanted: What it would be for this command.
        source: The file, for the message.

    Raises:
        JobError: They differ; the message lists how.
    """
    if not isinstance(found, dict) or not isinstance(found.get("settings"), dict):
        raise JobError(f"{source} is no job of `ldm generate`; give another --out")
    there, here = ({**_LATER, **NOTHING_WISHED, **job, **job["settings"]} for job in (found, wanted))
    refuse_another(there, here, [name for name in here if name != "settings"], source)


def refuse_another(there: Mapping[str, Any], here: Mapping[str, Any], names: Iterable[str], source: str) -> None:
    """Refuse to go on with a job that says something else than another one.

    Args:
        there: What the job of the folder says.
        here: What this command's says.
        names: Of what is compared.
        source: The file, for the message.

    Raises:
        JobError: They differ; the message lists how.
    """
    what = "; ".join(
        f"{printable(name)} is {short_repr(there.get(name))} there and {short_repr(here.get(name))} now"
        for name in names
        if there.get(name) != here.get(name)
    )
    if what:
        raise JobError(
            f"{source} is of another job: {what}. The command that began it continues it; give another --out for "
            "another job. Nothing was changed."
        )
