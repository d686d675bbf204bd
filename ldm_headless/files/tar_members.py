"""Where the files in a tar are. Nothing is unpacked; names only tell images apart and lead nowhere."""

import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ..errors import JobError
from .bounded import MAX_BYTES, BoundedFile, damage_told

MAX_MEMBERS = 100_000


@dataclass(frozen=True)
class Member:
    """A plain file in a tar: its name, and where its bytes are."""

    name: str
    offset: int
    size: int


def members_of(path: Path) -> Iterator[Member]:
    """The plain files, in order; links, devices and the like are passed over.

    Raises:
        JobError: No tar, or a damaged one, by then; or more members than anybody needs.
    """
    with damage_told(f"cannot read images from {path}"), BoundedFile(path) as file:
        end = path.stat().st_size
        with tarfile.open(fileobj=file, mode="r:") as archive:
            for count, member in enumerate(archive):
                if count >= MAX_MEMBERS:
                    raise JobError(f"{path} has more than {MAX_MEMBERS:,} members; split it into shards")
                archive.members = []  # pyright: ignore[reportAttributeAccessIssue] - or it grows with the file
                if not member.isreg() or member.issparse():
                    continue
                if member.offset_data + member.size > end:
                    raise JobError(f"{path} is cut short in {member.name!r}; copy or make it again")
                yield Member(member.name, member.offset_data, member.size)


def read_member(path: Path, member: Member) -> bytes:
    """The bytes of a member.

    Raises:
        JobError: The file cannot be read, is shorter now, or the member larger than any image.
    """
    if member.size > MAX_BYTES:
        raise JobError(f"{member.name} in {path} has {member.size:,} bytes; an image has at most {MAX_BYTES:,}")
    with damage_told(f"cannot read {member.name} in {path}"), path.open("rb") as file:
        file.seek(member.offset)
        found = file.read(member.size)
        if len(found) < member.size:
            raise JobError(f"{path} is cut short in {member.name!r}; copy or make it again")
    return found
