"""Whether a file that weights are mapped from is still what it was when they were read.

A file that is written anew in place changes the weights of whoever has it mapped, and one that is cut short there ends
the process at the next read (SIGBUS). A file that is replaced under its name, as downloads and `mv` do, is another
file: whoever has the old one mapped keeps it, unchanged, until it is loaded anew. Weights that were copied when they
were read (`copies_weights`) are not touched by any of this.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from ..errors import CheckpointError
from .shards import weight_files
from .tensor_files import copies_weights


@dataclass(frozen=True)
class FileMark:
    """What tells a file and its contents from others without reading it."""

    path: Path
    place: tuple[int, int]  # device and inode: which file
    contents: tuple[int, int]  # size in bytes and modification time in ns
    shards: tuple[FileMark, ...] = ()  # of the files that an index names
    copied: bool = field(default=False, compare=False)  # the weights do not depend on the file any more

    @classmethod
    def of(cls, path: Path) -> FileMark:
        """The file as it is now.

        Raises:
            CheckpointError: It is not there.
        """
        try:
            stat = path.stat()
        except OSError as error:
            raise CheckpointError(f"{path}: cannot be read ({error.strerror}). Check the path.") from error
        shards = tuple(cls.of(file) for file in weight_files(path)[1:])
        return cls(path, (stat.st_dev, stat.st_ino), (stat.st_size, stat.st_mtime_ns), shards, copies_weights())

    def check(self) -> None:
        """Raise CheckpointError if the file was written to; one that was replaced or removed keeps its contents."""
        if self.copied:
            return
        for shard in self.shards:
            shard.check()
        try:
            stat = self.path.stat()
        except OSError:  # removed, or out of reach: what is mapped stays
            return
        now = (stat.st_size, stat.st_mtime_ns)
        if (stat.st_dev, stat.st_ino) == self.place and now != self.contents:
            change = f"had {self.contents[0]} bytes and now has {now[0]}" if now[0] != self.contents[0] else "is newer"
            raise CheckpointError(
                f"{self.path}: the file was changed while its weights were in use (it {change}), so they are no longer "
                "those that were checked. Load the checkpoint again; to replace a file in use, move another one to its "
                "name."
            )
