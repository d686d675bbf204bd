"""Files and folders that are complete or absent, whoever writes them."""

from __future__ import annotations

import errno
import os
import stat
from itertools import count
from pathlib import Path

import pytest

from ldm_backend import whole_files
from ldm_backend.whole_files import named_when_done, replaced_when_done, write_whole


def numbered(folder: Path):
    return (folder / f"a_{number}.bin" for number in count(1))


def written(path: Path, content: bytes) -> None:
    with replaced_when_done(path) as scratch:
        scratch.write_bytes(content)


def written_folder(path: Path, content: bytes) -> None:
    with replaced_when_done(path, folder=True) as scratch:
        (scratch / "part").mkdir()
        (scratch / "part" / "file").write_bytes(content)


def written_new(path: Path, content: bytes) -> None:
    with named_when_done(iter([path])) as scratch:
        scratch.write_bytes(content)


def fail_halfway(file: Path, error: BaseException) -> None:
    file.write_bytes(b"half")
    raise error


WRITERS = {"file": written, "folder": written_folder, "new": written_new, "whole": write_whole}


@pytest.mark.parametrize("name", WRITERS)
def test_what_is_written_is_there_alone_and_for_everybody(tmp_path, name):
    path = tmp_path / "out"
    WRITERS[name](path, b"content")
    assert [entry.name for entry in tmp_path.iterdir()] == ["out"]
    for entry in (path, *path.rglob("*")):
        assert stat.S_IMODE(entry.stat().st_mode) == (0o755 if entry.is_dir() else 0o644)
    assert (path / "part" / "file" if path.is_dir() else path).read_bytes() == b"content"


@pytest.mark.parametrize("name", WRITERS)
def test_all_is_on_the_disk_before_it_has_its_name_and_the_name_after(tmp_path, monkeypatch, name):
    synced: list[tuple[str, bool]] = []
    real = os.fsync

    def fsync(handle: int) -> None:
        synced.append((Path(f"/proc/self/fd/{handle}").readlink().name, (tmp_path / "out").exists()))
        real(handle)

    monkeypatch.setattr(os, "fsync", fsync)
    WRITERS[name](tmp_path / "out", b"content")
    *before, last = synced
    assert before
    assert not any(named for _, named in before)
    assert last == (tmp_path.name, True)
    if name == "folder":
        assert {"part", "file"} <= {entry for entry, _ in before}


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "full"), KeyboardInterrupt(), ValueError("bad")])
@pytest.mark.parametrize("manager", [replaced_when_done, lambda path: named_when_done(numbered(path.parent))])
def test_a_body_that_fails_changes_nothing(tmp_path, manager, error):
    (tmp_path / "out").write_bytes(b"before")
    with pytest.raises(type(error)), manager(tmp_path / "out") as scratch:
        fail_halfway(scratch, error)
    assert {entry.name: entry.read_bytes() for entry in tmp_path.iterdir()} == {"out": b"before"}


def test_a_folder_that_fails_leaves_nothing(tmp_path):
    with pytest.raises(OSError, match="full"), replaced_when_done(tmp_path / "out", folder=True) as scratch:
        fail_halfway(scratch / "file", OSError(errno.ENOSPC, "full"))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("links", [True, False])
def test_what_another_writer_put_there_meanwhile_stays(tmp_path, monkeypatch, links):
    if not links:
        monkeypatch.setattr(os, "link", lambda *_: (_ for _ in ()).throw(OSError(errno.EPERM, "no links here")))
    with named_when_done(numbered(tmp_path)) as scratch:
        scratch.write_bytes(b"ours")
        for number in (1, 2):
            (tmp_path / f"a_{number}.bin").write_bytes(b"theirs")
    found = {entry.name: entry.read_bytes() for entry in tmp_path.iterdir()}
    assert found == {"a_1.bin": b"theirs", "a_2.bin": b"theirs", "a_3.bin": b"ours"}


def test_names_as_long_as_the_disk_allows(tmp_path):
    write_whole(tmp_path / ("n" * 255), b"content")
    assert (tmp_path / ("n" * 255)).read_bytes() == b"content"


def test_no_torch_is_imported():
    """The command writes files, and must not wait for torch."""
    assert not {"torch", "numpy", "safetensors"} & set(vars(whole_files))
