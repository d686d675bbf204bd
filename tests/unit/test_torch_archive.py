"""Archives of torch.save are read by one reader, which agrees with torch's wherever torch reads them at all."""

from __future__ import annotations

import io
import os
import pickle
import random
import struct
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from bad_files.archives import GOOD, KEY, plain, storage, table, tensor, write_archive

from ldm_backend.checkpoints import tensor_files
from ldm_backend.checkpoints.tensor_files import read_tensor_file
from ldm_backend.errors import CheckpointError

MUTATED = int(os.environ.get("LDM_ARCHIVES", "400"))  # 5000 in the long form


def saved(value: object) -> bytes:
    memory = io.BytesIO()
    torch.save(value, memory)
    return memory.getvalue()


def same(ours: dict[str, torch.Tensor], theirs: Any) -> bool:
    theirs = theirs.get("state_dict", theirs)
    return ours.keys() == theirs.keys() and all(
        ours[key].dtype == theirs[key].dtype and torch.equal(ours[key].view(-1), theirs[key].detach().view(-1))
        for key in ours
    )


MODULE = torch.nn.Sequential(torch.nn.Conv2d(2, 3, 3), torch.nn.GroupNorm(1, 3), torch.nn.Embedding(4, 2)).half()
GOOD_TABLES: dict[str, object] = {
    "state of a module": MODULE.state_dict(),
    "parameters": dict(MODULE.named_parameters()),
    "below state_dict": {"state_dict": MODULE.state_dict(), "epoch": 3, "optimizer_states": [{"state": {0: {"n": 1}}}]},
    "every format": {
        str(dtype): torch.ones(3, 2).to(dtype)
        for dtype in (
            torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.float16, torch.bfloat16,
            torch.float32, torch.float64,
        )
    },
    "views of one storage": {"a": torch.arange(12.0)[2:8], "b": torch.arange(12.0).view(3, 4).T},
    "empty and without sides": {"a": torch.zeros(0, 3), "b": torch.tensor(2.5)},
}  # fmt: skip


@pytest.mark.parametrize("name", GOOD_TABLES)
def test_what_torch_saves_is_read_as_torch_reads_it(tmp_path, name):
    (tmp_path / "a.pt").write_bytes(saved(GOOD_TABLES[name]))
    theirs = torch.load(tmp_path / "a.pt", weights_only=True)
    ours = read_tensor_file(tmp_path / "a.pt").tensors
    assert ours.keys() == theirs.get("state_dict", theirs).keys()
    for key, value in theirs.get("state_dict", theirs).items():
        assert ours[key].dtype == value.dtype
        assert torch.equal(ours[key], value.detach())


def mutated(data: bytes, seed: int) -> bytes:
    """Bytes changed, removed, put in or moved, near the places that tell a reader where things are."""
    chance, changed = random.Random(seed), bytearray(data)
    ends = [len(data) - place for place in (6, 10, 12, 14, 22, 30, 34, 42, 50, 58, 66, 74, 98) if place < len(data)]
    headers = [place for place in range(len(data)) if data[place : place + 2] == b"PK"]
    for _ in range(chance.choice((1, 1, 2, 3))):
        near = chance.choice([*ends, *headers, chance.randrange(len(data))]) + chance.randrange(46)
        at = min(near, len(changed) - 1)
        match chance.randrange(5):
            case 0 | 1:
                changed[at] ^= 1 << chance.randrange(8)
            case 2:
                changed[at : at + 4] = struct.pack("<I", chance.choice((0, 1, 2**16, 2**31, 2**32 - 1, len(data))))
            case 3:
                start = chance.randrange(len(data))
                changed[at:at] = data[start : start + chance.randrange(1, 120)]
            case _:
                del changed[at : at + chance.randrange(1, 60)]
    return bytes(changed)


@pytest.mark.parametrize("long_form", [True, False])
def test_both_readers_see_the_same_in_mutated_archives(tmp_path, long_form):
    """Ours refuses more; what it takes is what torch takes, to the last bit."""
    file = tmp_path / "a.pt"
    if long_form:
        good = saved({"a": torch.arange(40.0), "b": torch.ones(3, dtype=torch.float16)})
    else:
        write_archive(file, GOOD)
        good = file.read_bytes()
    both = 0
    for seed in range(MUTATED // 2):
        file.write_bytes(mutated(good, seed))
        try:
            ours = read_tensor_file(file).tensors
        except CheckpointError:
            continue
        try:
            # Mapped: without, torch hands out memory that nobody wrote for records that end before they should.
            theirs = torch.load(file, weights_only=True, mmap=True)
        except Exception:  # noqa: BLE001, S112 - of torch's reader, whatever it is: it takes less, which is its affair
            continue
        both += 1
        assert same(ours, theirs), (seed, ours, theirs)
    assert both > MUTATED // 40


EVIL = b"cbuiltins\nbytearray\n" + plain((10**9,)) + b"R"
LIST, END = b"PK\x01\x02", struct.Struct("<4sHHHHIIH")


def archive_with(content: bytes, numbers: int) -> bytes:
    memory = io.BytesIO()
    with zipfile.ZipFile(memory, "w") as archive:
        names = {"data.pkl": b"\x80\x02" + content + b".", "byteorder": b"little", "data/0": bytes(numbers)}
        for name, data in (names | {"version": b"3\n"}).items():
            archive.writestr(f"archive/{name}", data)
    return memory.getvalue()


def moved(listed: bytes, by: int, comment: bytes = b"") -> bytes:
    """A list of records that are elsewhere by so many bytes; the last has a comment."""
    changed = bytearray(listed)
    for place in (p for p in range(len(changed)) if changed[p : p + 4] == LIST):
        struct.pack_into("<I", changed, place + 42, struct.unpack_from("<I", changed, place + 42)[0] + by)
    struct.pack_into("<H", changed, changed.rindex(LIST) + 32, len(comment))
    return bytes(changed) + comment


def two_lists() -> bytes:
    """The end says where the evil list begins; what lies right before the end, where zipfile looks, is the other."""
    evil, good = archive_with(EVIL, 4000), archive_with(GOOD, 16)
    evil_list, good_list = evil.index(LIST), good.index(LIST)
    listed = moved(good[good_list:-22], evil_list - good_list)
    return evil[:-22] + good[:good_list] + listed + END.pack(b"PK\x05\x06", 0, 0, 4, 4, len(listed), evil_list, 0)


def locator_in_a_comment() -> bytes:
    """A locator that no size calls for leads to the evil list; it lies in the comment of the last harmless record."""
    evil, good = archive_with(EVIL, 16), archive_with(GOOD, 16)
    evil_list, good_list = evil.index(LIST), good.index(LIST)
    long_end = struct.pack("<4sQHHIIQQQQ", b"PK\x06\x06", 44, 45, 45, 0, 0, 4, 4, len(evil) - 22 - evil_list, evil_list)
    locator = struct.pack("<4sIQI", b"PK\x06\x07", 0, len(evil) - 22, 1)
    first = evil[:-22] + long_end
    listed = moved(good[good_list:-22], len(first), locator)
    start = len(first) + good_list
    return first + good[:good_list] + listed + END.pack(b"PK\x05\x06", 0, 0, 4, 4, len(listed), start, 0)


@pytest.mark.parametrize("make", [two_lists, locator_in_a_comment])
def test_an_archive_that_is_another_one_for_another_reader_is_refused(tmp_path, make):
    file = tmp_path / "a.pt"
    file.write_bytes(make())
    with zipfile.ZipFile(file) as harmless:
        assert harmless.read("archive/data.pkl") == b"\x80\x02" + GOOD + b"."
    assert torch._C.PyTorchFileReader(str(file)).get_record("data.pkl") == b"\x80\x02" + EVIL + b"."
    with pytest.raises(CheckpointError, match="cannot be read"):
        read_tensor_file(file)


def test_no_unpickler_runs(tmp_path, monkeypatch):
    (tmp_path / "a.pt").write_bytes(saved(GOOD_TABLES["below state_dict"]))
    for module, name in ((torch, "load"), (pickle, "loads"), (pickle, "load"), (pickle, "Unpickler")):
        monkeypatch.setattr(module, name, lambda *_, **__: pytest.fail("a pickle was handed on"))
    assert len(read_tensor_file(tmp_path / "a.pt").tensors) == 5


def numbers_with_one_hash(count: int) -> bytes:
    prime = 2**61 - 1  # Python's hashes of numbers are remainders of it
    pairs = b"".join(pickle.dumps(index * prime, protocol=2)[2:-1] + b"N" for index in range(1, count))
    return table({"a": tensor(storage(4), (4,), (1,))})[:-1] + text_key("b") + b"}(" + pairs + b"uu"


def text_key(name: str) -> bytes:
    return b"X" + struct.pack("<I", len(name)) + name.encode()


@pytest.mark.parametrize("where", ["among the tensors", "top"])
def test_keys_that_collide_cost_no_time(tmp_path, where):
    content = numbers_with_one_hash(60_000)
    if where == "top":
        content = b"}(" + text_key("state_dict") + GOOD + content[content.index(text_key("b")) :]
    write_archive(tmp_path / "a.pt", content)
    start = time.process_time()
    if where == "top":
        assert read_tensor_file(tmp_path / "a.pt").tensors.keys() == {"a"}
    else:
        with pytest.raises(CheckpointError, match="b is table; expected a tensor"):
            read_tensor_file(tmp_path / "a.pt")
    assert time.process_time() - start < 3


class Swap:
    """Puts another file under the name at the moment when the first one has been looked at."""

    def __init__(self, path: Path, other: bytes, inner: Callable[..., object]) -> None:
        self.path, self.other, self.inner = path, other, inner

    def __call__(self, *args: object) -> object:
        result = self.inner(*args)
        new = self.path.with_suffix(".new")
        new.write_bytes(self.other)
        new.replace(self.path)
        return result


@pytest.mark.parametrize("layout", ["archive", "safetensors"])
def test_what_was_checked_is_what_is_used(tmp_path, monkeypatch, layout):
    """A file that gets another one's name while it is read is read to its end, or refused."""
    import safetensors.torch

    tables = [{KEY: torch.full((1000,), float(value))} for value in (1, 2)]
    write = saved if layout == "archive" else safetensors.torch.save
    first, second = map(write, tables)
    path = tmp_path / "a.bin"
    path.write_bytes(first)
    hook = "read_archive" if layout == "archive" else "_same_file"
    monkeypatch.setattr(tensor_files, hook, Swap(path, second, getattr(tensor_files, hook)))
    assert read_tensor_file(path).tensors[KEY].unique().tolist() == [1.0]
    assert path.read_bytes() == second
