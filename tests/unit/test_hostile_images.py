"""Image sets of which something is odd: pixels come out, or an error of the family, soon and within memory."""

from __future__ import annotations

import io
import json
import os
import random
import resource
import struct
import subprocess
import sys
import tarfile
import time
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ldm_backend.errors import LDMError
from ldm_headless.errors import JobError
from ldm_headless.evaluation.comparison import compare_pairs, set_distance
from ldm_headless.evaluation.features import find_features
from ldm_headless.evaluation.image_sets import open_images
from ldm_headless.files.png import MAX_PIXELS, encode_png, read_png, read_png_info

MUTATIONS = int(os.environ.get("LDM_IMAGES", "500"))
SECONDS, MEGABYTES = 5.0, 500.0


def png(side: int = 8, seed: int = 0) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)
    return encode_png(pixels, {"seed": seed})


def tar(format_: int, *extra: tarfile.TarInfo) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=format_) as archive:
        for seed in range(3):
            member = tarfile.TarInfo(f"{'d' * 60}/{'e' * 60}/seed-{seed}.png" if seed == 2 else f"seed-{seed}.png")
            member.size = len(data := png(seed=seed))
            archive.addfile(member, io.BytesIO(data))
        for member in extra:
            archive.addfile(member)
    return file.getvalue()


def npz(save: Callable[..., None]) -> bytes:
    file = io.BytesIO()
    save(file, np.zeros((3, 8, 8, 3), np.uint8), seeds=np.arange(3))
    return file.getvalue()


SETS = {
    "x.png": png(),
    "ustar.tar": tar(tarfile.USTAR_FORMAT),
    "pax.tar": tar(tarfile.PAX_FORMAT),
    "gnu.tar": tar(tarfile.GNU_FORMAT),
    "plain.npz": npz(np.savez),
    "packed.npz": npz(np.savez_compressed),
}


def mutated(data: bytes, chance: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(chance.choice((1, 1, 2, 8))):
        at = chance.randrange(len(changed))
        match chance.randrange(6):
            case 0:
                del changed[at:]
            case 1:
                changed[at : at + chance.choice((1, 2, 4, 8))] = b"\xff" * 8
            case 2:
                del changed[at : at + chance.randrange(1, 60)]
            case 3:
                other = chance.randrange(len(changed))
                changed[at:at] = changed[other : other + 512]
            case 4:
                changed[at : at + 4] = chance.randbytes(4)
            case _:
                changed[at] ^= 1 << chance.randrange(8)
        if not changed:
            break
    # Half of the PNGs with right checksums, or no change would come any further.
    return with_checksums(bytes(changed)) if data[1:4] == b"PNG" and chance.random() < 0.5 else bytes(changed)


def with_checksums(data: bytes) -> bytes:
    """A PNG whose checksums are those of its chunks."""
    fixed, at = bytearray(data[:8]), 8
    while at + 12 <= len(data):
        length = int.from_bytes(data[at : at + 4], "big")
        chunk = data[at + 4 : at + 8 + length]
        fixed += data[at : at + 4] + chunk + struct.pack(">I", zlib.crc32(chunk))
        at += 12 + length
    return bytes(fixed)


def look(path: Path) -> None:
    """All that `ldm evaluate` does with a set."""
    images = open_images(path)
    compare_pairs(images, images)
    set_distance(images, images, find_features("pixels"))


@pytest.mark.parametrize("name", SETS)
def test_mutated_sets_end_in_a_message(tmp_path: Path, name: str) -> None:
    inside = tmp_path / "beside" / "inside"
    inside.mkdir(parents=True)
    path, chance, messages = inside / name, random.Random(name), []
    for number in range(MUTATIONS // len(SETS) + 1):
        path.write_bytes(mutated(SETS[name], chance))
        start = time.monotonic()
        try:
            look(inside if name.endswith("png") else path)
        except LDMError as error:
            messages.append(str(error))
        assert time.monotonic() - start < SECONDS, number
    assert messages
    assert max(map(len, messages)) < 1500
    assert [each.name for each in tmp_path.rglob("*")] == ["beside", "inside", name]


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def bomb_png(side: int, again: int = 0) -> bytes:
    head = b"\x89PNG\r\n\x1a\n" + b"".join(
        chunk(b"IHDR", struct.pack(">IIBBBBB", each, each, 8, 2, 0, 0, 0)) for each in (side, again) if each
    )
    rows = zlib.compress(bytes(1000 * 1000), 9)
    return head + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def bomb_text() -> bytes:
    return png()[:33] + chunk(b"zTXt", b"ldm\0\0" + zlib.compress(bytes(2**28), 9)) + png()[33:]


def archive_of(members: dict[str, bytes], packed: bool = False) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED if packed else zipfile.ZIP_STORED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return file.getvalue()


def array(descr: str, shape: str, data: bytes = b"", fortran: str = "False", version: bytes = b"\1\0") -> bytes:
    header = f"{{'descr': {descr}, 'fortran_order': {fortran}, 'shape': {shape}, }}\n".encode()
    return b"\x93NUMPY" + version + len(header).to_bytes(2 if version == b"\1\0" else 4, "little") + header + data


def pickled() -> bytes:
    file = io.BytesIO()
    np.savez(file, np.array([{"a": 1}], dtype=object))
    return file.getvalue()


def named(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, link
    return member


def headers(kind: bytes, count: int, size: int) -> bytes:
    member = named("x", kind)
    member.size = size
    return member.tobuf(tarfile.GNU_FORMAT) * count


def npz_of(shape: str, data: bytes = b"", packed: bool = False, seeds: bytes = b"") -> bytes:
    members = {"arr_0.npy": array("'|u1'", shape, data)} | ({"seeds.npy": seeds} if seeds else {})
    return archive_of(members, packed)


TWO = ("(2, 8, 8, 3)", bytes(2 * 8 * 8 * 3))
EMPTY = ("(2796202, 8, 8, 3)", bytes(2796202 * 192))  # half a gigabyte
BOMBS: dict[str, tuple[str, Callable[[], bytes], str]] = {
    "a PNG of billions of pixels": ("a.png", lambda: bomb_png(60_000), "pixels"),
    "a PNG of more than are taken": ("a.png", lambda: bomb_png(6_000), "at most 33,554,432"),
    "a PNG that says its size twice": ("a.png", lambda: bomb_png(8, 60_000), "pixels"),
    "a PNG of less than it says": ("a.png", lambda: bomb_png(5_000), "cannot read"),
    "a PNG with a text of 256 MB": ("a.png", bomb_text, "cannot read"),
    "an empty PNG": ("a.png", lambda: b"", "cannot read"),
    "a tar member of exabytes": ("a.tar", lambda: headers(b"0", 1, 2**62), "cut short|cannot read"),
    "a tar whose extended header is one": ("a.tar", lambda: headers(b"x", 1, 2**40), "cannot read"),
    "a tar of long names in each other": ("a.tar", lambda: headers(b"L", 5000, 0), "cannot read"),
    "a tar of too many members": ("a.tar", lambda: headers(b"0", 100_001, 0), "more than 100,000 members"),
    "an npz of objects": ("a.npz", pickled, "object"),
    "an npz of seeds that are objects": (
        "a.npz",
        lambda: npz_of(*TWO, seeds=array("'|O'", "(2,)")),
        "Python objects",
    ),
    "an npz of a huge shape": ("a.npz", lambda: npz_of("(9999999999, 64, 64, 3)"), "fewer"),
    "a packed one": ("a.npz", lambda: npz_of("(9999999999, 64, 64, 3)", packed=True), "no pictures"),
    "an npz of huge images": ("a.npz", lambda: npz_of("(1, 99999, 99999, 3)"), "pixels"),
    "an npz of negative sides": ("a.npz", lambda: npz_of("(-1, 8, -8, 3)"), "expected"),
    "an npz whose header is deep": ("a.npz", lambda: npz_of("(" * 4000), "cannot read"),
    "an npz whose header is long": (
        "a.npz",
        lambda: archive_of({"arr_0.npy": b"\x93NUMPY\2\0" + b"\xff\xff\xff\x7f" + bytes(2**26)}, True),
        "its header has",
    ),
    "an npz of a gigabyte of nothing": (
        "a.npz",
        lambda: npz_of(*EMPTY, packed=True),
        "no pictures are packed to",
    ),
    "an npz with many records": (
        "a.npz",
        lambda: archive_of({f"{n:060}.npy": b"" for n in range(20_000)}),
        "cannot read|has no arr_0",
    ),
    "an npz without records": ("a.npz", lambda: archive_of({}), "has no arr_0"),
    "an npz of float seeds": (
        "a.npz",
        lambda: npz_of(*TWO, seeds=array("'<f8'", "(2,)", bytes(16))),
        "whole numbers",
    ),
    "an npz of a seed without axis": (
        "a.npz",
        lambda: npz_of(*TWO, seeds=array("'<i8'", "()", bytes(8))),
        "whole numbers",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", BOMBS)
def test_a_small_file_takes_no_more_than_its_size(tmp_path: Path, case: str) -> None:
    """In a process of its own, whose memory tells the most that was ever used."""
    name, make, message = BOMBS[case]
    (tmp_path / name).write_bytes(make())
    program = (
        "import json, resource, sys, time; from pathlib import Path; import test_hostile_images as t;"
        "path = Path(sys.argv[1]); before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss;"
        "at = time.process_time()\n"
        "try: t.look(path.parent if path.suffix == '.png' else path); told = ''\n"
        "except t.LDMError as error: told = str(error)\n"
        "used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before\n"
        "print(json.dumps([told, used / 1024, time.process_time() - at]))"
    )
    path = os.pathsep.join([str(Path(__file__).parent), *filter(None, sys.path)])
    run = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / name)],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    told, megabytes, seconds = json.loads(run.stdout)
    assert message in told or any(each in told for each in message.split("|")), told
    assert str(tmp_path) in told
    assert megabytes < MEGABYTES
    assert seconds < SECONDS


def test_the_largest_that_is_taken_is_read_within_memory(tmp_path: Path) -> None:
    side = int(MAX_PIXELS**0.5)
    Image.new("P", (side, side)).save(tmp_path / "a.png")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert read_png(tmp_path / "a.png").shape == (side, side, 3)
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024 < MEGABYTES


def test_members_lead_nowhere(tmp_path: Path) -> None:
    """Names that climb, links and devices: nothing is written, and only plain files are images."""
    secret = tmp_path / "seed-9.png"
    secret.write_bytes(png())
    odd = [
        named("../../seed-7.png"),
        named("/etc/seed-8.png"),
        named("seed-9.png", tarfile.SYMTYPE, str(secret)),
        named("seed-10.png", tarfile.LNKTYPE, "seed-0.png"),
        named("seed-11.png", tarfile.CHRTYPE),
        named("seed-12.png", tarfile.FIFOTYPE),
    ]
    (tmp_path / "in").mkdir()
    path = tmp_path / "in" / "a.tar"
    path.write_bytes(tar(tarfile.USTAR_FORMAT, *odd))
    images = open_images(path)
    assert images.keys == (0, 1, 2, 7, 8)
    assert images.read(1).shape == (8, 8, 3)
    with pytest.raises(JobError, match="cannot read"):
        images.read(7)
    assert sorted(each.name for each in tmp_path.rglob("*")) == ["a.tar", "in", "seed-9.png"]


def test_pipes_and_devices_are_no_images(tmp_path: Path) -> None:
    """They are not waited for."""
    os.mkfifo(tmp_path / "seed-1.png")
    os.symlink("/dev/zero", tmp_path / "seed-2.png")
    images = open_images(tmp_path)
    for seed in (1, 2):
        with pytest.raises(JobError, match="it is no file"):
            images.read(seed)
    for name in ("a.npz", "a.tar"):
        os.symlink("/dev/zero", tmp_path / name)
        with pytest.raises(JobError, match="it is no file"):
            open_images(tmp_path / name)
        os.remove(tmp_path / name)
        os.mkfifo(tmp_path / name)
        with pytest.raises(JobError, match="it is no file"):
            open_images(tmp_path / name)
    with pytest.raises(JobError, match="it is no file"):
        read_png_info(tmp_path / "seed-1.png")
