"""What the files of a job hold, told by their pixels: which images are sound, and which are broken. Imports files.

A picture is sound if its pixels are those that the manifest names. Without a line there it must say itself that it is
of this job.
"""

import io
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..errors import JobError
from ..files.npz import read_npz
from ..files.png import encode_png, pixels_sha256, read_png_whole
from ..files.tar_members import Member, members_of, read_member
from .job import Format, Job, png_name
from .manifest import Entry, is_unchanged, object_in
from .packing import padded_size

_END = b"\0\0\0\0IEND\xaeB`\x82"  # of a whole PNG


class ForeignError(JobError):
    """A whole picture of another job, or of somebody else."""


@dataclass(frozen=True)
class Packed:
    """What a shard or npz holds.

    Attributes:
        sound: The images that are as they should be, in the order of the file.
        members: Of a shard, where they are.
        is_whole: It is what would be written now: nothing is missing, and there is nothing else in it.
    """

    sound: Mapping[int, Entry]
    members: Mapping[int, Member]
    is_whole: bool


def sound_png(path: Path, known: Entry | None, own: Mapping[str, Any], since: int) -> Entry | None:
    """What is known of a picture; None where it is broken. It is read unless its file is as the manifest knows it.

    Args:
        path: Of the PNG.
        known: By the manifest.
        own: What it says of itself if it is this one of this job.
        since: When the manifest was written, in nanoseconds; 0 has every picture read.

    Raises:
        ForeignError: The manifest does not know it, and it is a whole picture, but not of this job.
    """
    if known is not None and is_unchanged(path, known.size, since):
        return known
    try:
        pixels, text = read_png_whole(path)
    except JobError:
        return None
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(-len(_END), os.SEEK_END)
        if file.read() != _END:  # cut short behind the pixels
            return None
    return _compared(Entry(pixels_sha256(pixels), _machine(text, own), size), known, path)


def look_into(path: Path, seeds: Sequence[int], known: Mapping[int, Entry], job: Job) -> Packed:
    """Read a shard or npz, as far as it can be read.

    Args:
        path: The file.
        seeds: Of the images that it should hold, in order.
        known: By the manifest.
        job: Of the folder.

    Raises:
        ForeignError: It holds a whole picture that the manifest does not know and that is not of this job.
    """
    sound: dict[int, Entry] = {}
    members: dict[int, Member] = {}
    try:
        if job.format is Format.NPZ:
            is_whole = _look_into_npz(path, seeds, known, job, sound)
        else:
            is_whole = _look_into_tar(path, seeds, known, job, sound, members)
    except ForeignError:
        raise
    except JobError:  # what lies behind that place is lost
        is_whole = False
    return Packed(sound, members, is_whole)


def sound_pngs(path: Path, packed: Packed, seeds: Sequence[int], job: Job) -> Iterator[tuple[int, bytes]]:
    """Seed and PNG of each sound image of a shard or npz.

    Args:
        path: The file.
        packed: What `look_into` found.
        seeds: As there.
        job: As there.
    """
    for seed, member in packed.members.items():
        yield seed, read_member(path, member)
    if job.format is Format.NPZ and packed.sound:
        images, _ = read_npz(path)
        for row, seed in enumerate(seeds):
            if entry := packed.sound.get(seed):
                yield seed, encode_png(images[row], job.info(seed, entry.machine))


def _look_into_npz(
    path: Path, seeds: Sequence[int], known: Mapping[int, Entry], job: Job, sound: dict[int, Entry]
) -> bool:
    """Rows hold pixels alone, so that one without a line in the manifest is nobody's."""
    images, found = read_npz(path)
    if found != list(seeds):
        return False
    for seed, pixels in zip(seeds, images, strict=True):
        entry = known.get(seed)
        if entry and pixels_sha256(pixels) == entry.sha256:
            if entry.size is None:
                png = encode_png(pixels, job.info(seed, entry.machine))
                entry = replace(entry, size=len(png))
            sound[seed] = entry
    return len(sound) == len(seeds)


def _look_into_tar(
    path: Path,
    seeds: Sequence[int],
    known: Mapping[int, Entry],
    job: Job,
    sound: dict[int, Entry],
    where: dict[int, Member],
) -> bool:
    by_name = {png_name(seed): seed for seed in seeds}
    texts: dict[str, str] = {}  # name of the next member -> what it should hold
    members: list[Member] = []
    is_whole = True
    for member in members_of(path):
        members.append(member)
        data = read_member(path, member)
        seed = by_name.get(member.name)
        if seed is None:
            is_whole &= texts.get(member.name, "").encode() == data
            continue
        try:
            pixels, text = read_png_whole(io.BytesIO(data), member.name)
        except JobError:
            continue
        if not data.endswith(_END):
            continue
        texts = {f"seed-{seed}.json": text}
        found = Entry(pixels_sha256(pixels), _machine(text, job.marks(seed)), member.size)
        entry = _compared(found, known.get(seed), path)
        if entry is not None:
            sound[seed], where[seed] = entry, member
    names = [name for seed in seeds for name in (png_name(seed), f"seed-{seed}.json")]
    sizes = [member.size for member in members]
    return (
        is_whole
        and list(sound) == list(seeds)
        and [member.name for member in members] == names
        and path.stat().st_size == padded_size(sizes)
    )


def _compared(found: Entry, known: Entry | None, path: Path) -> Entry | None:
    """The entry of a picture that can be read; without a machine, it does not say that it is of this job."""
    if known is not None:
        return replace(found, machine=known.machine) if found.sha256 == known.sha256 else None
    if not found.machine:
        raise ForeignError(f"{path} is not of this job; move it away, then the same command continues")
    return found


def _machine(text: str, own: Mapping[str, Any]) -> str:
    """Which machine made a picture by what it says itself; empty where it is not this one of this job."""
    info = object_in(text)
    if any(info.get(name) != value for name, value in own.items()):
        return ""
    machine = info.get("machine")
    return machine if isinstance(machine, str) else ""
