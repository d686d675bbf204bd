"""Archives of torch.save. Their pickles are put together byte by byte, since no library writes most of them."""

from __future__ import annotations

import pickle
import random
import struct
import zipfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file

from .registry import KEY, UNET, bad


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def plain(value: object) -> bytes:
    return pickle.dumps(value, protocol=2)[2:-1]


def storage(count: int, key: str = "0", kind: str = "FloatStorage") -> bytes:
    return b"(" + text("storage") + f"ctorch\n{kind}\n".encode() + text(key) + text("cpu") + plain(count) + b"tQ"


def tensor(store: bytes, size: tuple[int, ...], stride: tuple[int, ...], offset: int = 0) -> bytes:
    hooks = b"ccollections\nOrderedDict\n)R"
    return (
        b"ctorch._utils\n_rebuild_tensor_v2\n("
        + store
        + plain(offset)
        + plain(size)
        + plain(stride)
        + b"\x89"
        + hooks
        + b"tR"
    )


def table(items: Mapping[str, bytes]) -> bytes:
    return b"}(" + b"".join(text(key) + value for key, value in items.items()) + b"u"


GOOD = table({"a": tensor(storage(4), (4,), (1,))})


def call(module: str, name: str, *args: object) -> bytes:
    return f"c{module}\n{name}\n".encode() + plain(args) + b"R"


def write_archive(file: Path, content: bytes, **records: bytes) -> None:
    with zipfile.ZipFile(file, "w") as archive:
        names = {
            "data.pkl": b"\x80\x02" + content + b".",
            "byteorder": b"little",
            "data/0": bytes(16),
            "version": b"3\n",
        }
        for name, data in (names | records).items():
            archive.writestr(f"archive/{name}", data)


def pickled(f: Path, content: bytes, **records: bytes) -> Path:
    (f / UNET).unlink()
    file = f / "unet" / "diffusion_pytorch_model.bin"
    write_archive(file, content, **records)
    return file


@bad(
    "refused, because it calls for .*convert it",
    system=call("posix", "system", "touch pwned"),
    os_system=call("os", "system", "touch pwned"),
    evaluate=call("__builtin__", "eval", "open('pwned', 'w')"),
    execute=call("builtins", "exec", "open('pwned', 'w')"),
    popen=call("subprocess", "Popen", ("touch", "pwned")),
    import_a_module=call("evil_canary", "start"),
    import_by_name=call("importlib", "import_module", "evil_canary"),
    hidden_behind_getattr=call("__builtin__", "getattr", "a", "b"),
    pickle_in_pickle=call("pickle", "loads", "x"),
    numpy_load=call("numpy", "load", "x"),
    torch_load=call("torch", "load", "x"),
    torch_jit=call("torch.jit", "load", "x"),
    hub_load=call("torch.hub", "load", "a/b", "c"),
    gigabytes_of_bytes=call("builtins", "bytearray", 10**12),
    gigabytes_of_tensor=call("torch", "FloatTensor", 10**6, 10**6),
    empty_tensor_of_any_size=call("torch", "Tensor", 10**6, 10**6),
    meta_tensor=call("torch._utils", "_rebuild_meta_tensor_no_storage", "a", (2**40,), (1,), False),
    sparse_tensor=call("torch._utils", "_rebuild_sparse_tensor", 0, ((), (), (2**40,))),
    quantised_tensor=call("torch._utils", "_rebuild_qtensor", 1),
    wrapped_tensor=call("torch._utils", "_rebuild_wrapper_subclass", 1),
    subclass=call("torch._tensor", "_rebuild_from_type_v2", 1),
    set=call("builtins", "set", [1]),
)
def pickle_that_calls(f: Path, content: bytes) -> None:
    (f.parent / "evil_canary.py").write_text("open('pwned', 'w').close()\ndef start(): pass\n")
    pickled(f, table({"a": content}))


@bad("refused, because it calls for posix.system")
def pickle_that_calls_after_its_tensors(f: Path) -> None:
    pickled(f, GOOD + b"0" + call("posix", "system", "touch pwned"))


@bad("refused, because it calls for posix.system")
def pickle_that_calls_when_its_state_is_set(f: Path) -> None:
    pickled(f, b"ccollections\nOrderedDict\n)R" + call("posix", "system", "touch pwned") + b"b")


def doubling_tuples(levels: int) -> bytes:
    """A tuple of twice the same tuple, and so on: few bytes, and 2**levels steps to hash, compare or print it."""
    return b")q\x00" + b"".join(
        b"h" + bytes([n]) + b"h" + bytes([n]) + b"\x86q" + bytes([n + 1]) for n in range(levels)
    )


@bad(
    "cannot be read|holds a|refused: 1 tables",
    nothing=b"",
    only_an_end=b".",
    no_table_to_fill=b"K\x01K\x02s",
    empty_stack=b"0" * 10,
    marks=b"(" * 1000 + b"t" * 1001,
    nested_tuples=b")" + b"\x85" * 300_000,
    nested_lists=b"]" * 100_000 + b"a" * 99_999,
    nested_tables=b"}" + b"".join(b"K\x01}" for _ in range(50_000)) + b"s" * 50_000,
    key_that_takes_years=doubling_tuples(200) + b"}h\xc8K\x01s",
    key_in_a_list_of_pairs=doubling_tuples(200) + b"ccollections\nOrderedDict\n]h\xc8K\x01\x86a\x85R",
    attributes_in_a_list_of_pairs=doubling_tuples(200) + b"ccollections\nOrderedDict\n)R]h\xc8K\x01\x86ab",
    two_million_tables=b"}" * 2_000_000,
    memo_that_is_not_there=b"j\xff\xff\xff\x7f",
    unknown_opcode=b"\x8d" + b"\xff" * 8,
    text_of_four_gigabytes=b"X\xff\xff\xff\xff",
    frame_of_a_later_protocol=b"\x95" + b"\xff" * 8,
    encoder_of_another_kind=b"c_codecs\nencode\n" + text("ü" * 1_000_000) + text("idna") + b"\x86R",
    huge_storage=table({"a": tensor(storage(2**40), (2**40,), (1,))}),
    huge_storage_overflowing=table({"a": tensor(storage(2**63 - 1), (1,), (1,))}),
    negative_storage=table({"a": tensor(storage(-4), (4,), (1,))}),
    storage_of_another_size=table({"a": tensor(storage(5), (5,), (1,))}),
    storage_of_another_type=table({"a": tensor(storage(4, kind="DoubleStorage"), (4,), (1,))}),
    storage_that_is_not_there=table({"a": tensor(storage(4, key="../../etc/passwd"), (4,), (1,))}),
    storage_that_is_no_storage=b"X\x01\0\0\0aQ",
    beyond_the_storage=table({"a": tensor(storage(4), (2**40,), (1,))}),
    beyond_the_storage_by_stride=table({"a": tensor(storage(4), (4,), (2**40,))}),
    before_the_storage=table({"a": tensor(storage(4), (4,), (1,), offset=-1)}),
    negative_stride=table({"a": tensor(storage(4), (4,), (-1,))}),
    negative_size=table({"a": tensor(storage(4), (-4,), (1,))}),
    strides_of_another_length=table({"a": tensor(storage(4), (4,), (1, 1))}),
    thousands_of_dimensions=table({"a": tensor(storage(4), (1,) * 5000, (1,) * 5000)}),
    state_of_a_tensor=tensor(storage(4), (4,), (1,)) + storage(4) + plain(0) + plain((2**40,)) + plain((1,)) + b"(tb",
    parameter_of_nothing=b"ctorch._utils\n_rebuild_parameter\nN\x88ccollections\nOrderedDict\n)R\x87R",
)
def pickle_of_a_strange_form(f: Path, content: bytes) -> None:
    pickled(f, content)


@bad("refused: a claims")
def pickle_with_a_giant_tensor_of_one_number(f: Path) -> None:
    pickled(f, table({"a": tensor(storage(4), (2**20, 2**20), (0, 0))}))


@bad("do not fit|expected a tensor")
def pickle_whose_table_hides_its_methods(f: Path) -> None:
    attributes = b"}(" + b"".join(text(name) + b"N" for name in ("items", "get", "keys", "values")) + b"u"
    pickled(
        f, b"ccollections\nOrderedDict\n)R(" + text("a") + tensor(storage(4), (4,), (1,)) + b"u" + attributes + b"b"
    )


@bad(
    "expected a table|expected a tensor|refused: .* tables of contents",
    list=b"]",
    number=b"K\x01",
    nothing=b"N",
    table_of_numbers=table({"a": b"K\x01"}),
    itself=b"}q\x00" + text("a") + b"h\x00s",
    numbered=b"}K\x01K\x02s",
    million_keys=b"}(" + b"".join(text(f"{n:07}") + b"N" for n in range(10**6)) + b"u",
)
def pickle_that_is_no_table_of_tensors(f: Path, content: bytes) -> None:
    pickled(f, content)


@bad("cannot be read|refused", kept_10=10, kept_100=100, half=0.5, no_directory=0.97, no_end=-1)
def archive_cut_short(f: Path, keep: float) -> None:
    (f / UNET).rename(f / "old")
    file = f / "unet" / "diffusion_pytorch_model.bin"
    torch.save(load_file(f / "old"), file)
    data = file.read_bytes()
    file.write_bytes(data[: keep if isinstance(keep, int) else int(keep * len(data))])


@bad("", **{f"seed_{n}": n for n in range(12)})
def bit_flipped_in_an_archive(f: Path, seed: int) -> None:
    """In the pickle or in the list of records; whatever is hit, no other error may come out."""
    file = pickled(f, table({KEY: tensor(storage(4), (4,), (1,))}))
    data = bytearray(file.read_bytes())
    bit = random.Random(seed).choice([*range(8 * 40, 8 * 200), *range(8 * (len(data) - 300), 8 * len(data))])
    data[bit // 8] ^= 1 << bit % 8
    file.write_bytes(data)


def put(data: bytearray, place: int, value: int, size: int = 4) -> None:
    data[place : place + size] = value.to_bytes(size, "little")


@bad("refused: .*compressed", pickle="data.pkl", data="data/0")
def zip_bomb(f: Path, name: str) -> None:
    """Two gigabytes of zeros in two megabytes: one block of deflate that stands alone, many times."""
    deflate = zlib.compressobj(wbits=-15)
    block = deflate.compress(bytes(2**20)) + deflate.flush(zlib.Z_FULL_FLUSH)
    file = pickled(f, GOOD, **{name: block * 2048 + b"\x03\x00"})
    data = bytearray(file.read_bytes())
    full_name = f"archive/{name}".encode()
    for method in (data.index(full_name) - 30 + 8, data.rindex(full_name) - 46 + 10):  # its header, and in the list
        put(data, method, zipfile.ZIP_DEFLATED, 2)
        put(data, method + 14, 2**31)
    file.write_bytes(data)


@bad(
    "cannot be read|refused",
    records_of_gigabytes=lambda data, at: (put(data, at + 20, 2**32 - 2), put(data, at + 24, 2**32 - 2)),
    record_outside=lambda data, at: put(data, at + 42, 2**31),
    encrypted=lambda data, at: put(data, data.index(b"PK\x01\x02") + 8, 1, 2),
    unknown_compression=lambda data, at: put(data, at + 10, 99, 2),
    directory_outside=lambda data, at: put(data, len(data) - 6, 2**31),
    directory_of_gigabytes=lambda data, at: put(data, len(data) - 10, 2**32 - 2),
    many_disks=lambda data, at: put(data, len(data) - 18, 7, 2),
    comment=lambda data, at: (put(data, len(data) - 2, 4, 2), data.extend(b"PK\x05\x06")),
    other_checksum=lambda data, at: put(data, data.index(b"PK\x01\x02") + 16, 7),
    in_front_of_it_another=lambda data, at: data.__setitem__(slice(0, 0), b"PK\x03\x04" + bytes(500)),
)  # fmt: skip
def archive_directory(f: Path, change: Callable[[bytearray, int], object]) -> None:
    """`change` gets the file and the place of the last entry in its list of records."""
    file = pickled(f, GOOD)
    data = bytearray(file.read_bytes())
    change(data, data.rindex(b"PK\x01\x02"))
    file.write_bytes(data)


@bad("refused: .*records")
def records_that_overlap(f: Path) -> None:
    """Many names for the same megabytes: the list claims far more than the file has."""
    file = pickled(f, GOOD, **{"data/0": bytes(2**22)})
    data = file.read_bytes()
    start = data.index(b"PK\x01\x02")
    entry_start = data.index(b"archive/data/0", start) - 46
    entry = data[entry_start : entry_start + 46 + len("archive/data/0")]
    extra = b"".join(entry[:46] + f"archive/{n:06}".encode() for n in range(2000))
    end = bytearray(data[-22:])
    put(end, 8, 2004, 2)
    put(end, 10, 2004, 2)
    put(end, 12, len(data) - 22 - start + len(extra))
    file.write_bytes(data[:-22] + extra + end)


@bad("refused: 2 tables of contents")
def second_pickle_of_the_same_name(f: Path) -> None:
    file = pickled(f, GOOD)
    with zipfile.ZipFile(file, "a") as archive:
        archive.writestr("evil/data.pkl", b"\x80\x02" + call("posix", "system", "touch pwned") + b".")


@bad("records of different names")
def second_pickle_in_other_letters(f: Path) -> None:
    file = pickled(f, GOOD)
    with zipfile.ZipFile(file, "a") as archive:
        archive.writestr("archive/DATA.PKL", b"\x80\x02" + call("posix", "system", "touch pwned") + b".")


@bad("TorchScript")
def torchscript(f: Path) -> None:
    pickled(f, GOOD, **{"constants.pkl": b"\x80\x02)."})


@bad("big-endian")
def numbers_of_the_other_order(f: Path) -> None:
    pickled(f, GOOD, byteorder=b"big")


@bad("refused: 0 tables of contents")
def archive_of_something_else(f: Path) -> None:
    (f / UNET).unlink()
    with zipfile.ZipFile(f / "unet" / "diffusion_pytorch_model.bin", "w") as archive:
        archive.writestr("word/document.xml", "<a/>")
