"""Random headers, archives, pickles and configurations: either they are read, or an LDMError says why not.

The examples are the same in every run (derandomize). An example that takes longer than the deadline fails, too.
"""

from __future__ import annotations

import contextlib
import io
import json
import struct
import zipfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from bad_files import archives
from compvis_writer import DATA
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save

from ldm_backend.checkpoints.checkpoint import read_checkpoint
from ldm_backend.checkpoints.configuration import read_json
from ldm_backend.checkpoints.first_stage import load_first_stage
from ldm_backend.checkpoints.single_file import config_from_metadata, config_to_json
from ldm_backend.checkpoints.tensor_files import read_tensor_file
from ldm_backend.config.compvis_yaml import read_compvis_model
from ldm_backend.config.model import KLConfig, LDMConfig, ScheduleConfig, UNetConfig, VQConfig
from ldm_backend.errors import LDMError

fuzz = settings(derandomize=True, deadline=1000, max_examples=150, database=None)

NUMBERS = st.one_of(
    st.integers(-2, 40),
    st.sampled_from([2**31, 2**32, 2**53, 2**63 - 1, 2**63, 2**64 - 1, 2**64, -(2**63), 10**400]),
    st.floats(),
)
JSON = st.recursive(
    st.none() | st.booleans() | NUMBERS | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
# Mostly plausible, so that the examples get past the first check.
ENTRY = st.fixed_dictionaries(
    {},
    optional={
        "dtype": st.sampled_from(["F32", "F16", "BF16", "F64", "I8", "BOOL", "F8_E4M3", "F4", "C64", "f32"]) | JSON,
        "shape": st.lists(st.integers(0, 4), max_size=9) | JSON,
        "data_offsets": st.lists(st.integers(0, 64), min_size=2, max_size=2) | JSON,
    },
)
KNOWN_KEYS = ["conv_in.weight", "model.diffusion_model.out.2.bias", "scale_factor", "__metadata__"]
KEYS = st.sampled_from(KNOWN_KEYS) | st.text(max_size=12)
EDITS = st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1, max_size=6)


@pytest.fixture(scope="module")
def scratch(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("fuzz")


def edited(data: bytes, edits: list[tuple[float, int]], cut: float | None) -> bytes:
    """Some bytes replaced, their places given as fractions of the length; the end cut off."""
    out = bytearray(data)
    for place, value in edits:
        out[int(place * len(out))] = value
    return bytes(out if cut is None else out[: int(cut * len(out))])


def only_our_error(read: Callable[[Path], object], file: Path, content: bytes) -> None:
    file.write_bytes(content)
    with contextlib.suppress(LDMError):
        read(file)


def small_tensors() -> dict[str, torch.Tensor]:
    return {"conv_in.weight": torch.ones(2, 3), "conv_in.bias": torch.zeros(2, dtype=torch.float16)}


@fuzz
@given(header=st.dictionaries(KEYS, ENTRY | JSON, max_size=4), size=st.integers(0, 64), length=st.none() | NUMBERS)
def test_safetensors_headers(scratch, header, size, length):
    text = json.dumps(header).encode()
    stated = length if isinstance(length, int) and 0 <= length < 2**64 else len(text)
    content = struct.pack("<Q", stated) + text + bytes(size)
    only_our_error(read_tensor_file, scratch / "a.safetensors", content)
    only_our_error(read_checkpoint, scratch / "a.safetensors", content)


@fuzz
@given(edits=EDITS, cut=st.none() | st.floats(0, 1))
def test_edited_safetensors(scratch, edits, cut):
    metadata = {"format": "comfyui-ldm.1", "ldm_config": json.dumps(config_to_json(LDMConfig()))}
    content = save({f"unet.{key}": value for key, value in small_tensors().items()}, metadata)
    only_our_error(read_checkpoint, scratch / "b.safetensors", edited(content, edits, cut))


@fuzz
@given(edits=EDITS, cut=st.none() | st.floats(0.9, 1))
def test_edited_archives(scratch, edits, cut):
    stream = io.BytesIO()
    torch.save({"state_dict": small_tensors(), "epoch": 1}, stream)
    only_our_error(read_tensor_file, scratch / "a.ckpt", edited(stream.getvalue(), edits, cut))


@fuzz
@given(edits=EDITS)
def test_edited_pickles(scratch, edits):
    """In an otherwise sound archive, so that the checksum of the pickle does not hide it."""
    stream = io.BytesIO()
    torch.save({"state_dict": small_tensors(), "epoch": 1}, stream)
    with zipfile.ZipFile(stream) as archive:
        content = archive.read("archive/data.pkl")
    archives.write_archive(scratch / "b.ckpt", edited(content, edits, None)[2:-1])
    only_our_error(read_tensor_file, scratch / "b.ckpt", (scratch / "b.ckpt").read_bytes())


PIECES = [
    *(bytes([code]) for code in b"(.012ab]}u)tsRbeQN\x81\x85\x86\x87\x88\x89"),
    *(b"h\x00", b"q\x00", b"q\x01", b"h\x01", b"j\xff\xff\xff\xff", b"r\0\0\0\x7f", b"K\x04", b"J\xff\xff\xff\xff"),
    *(archives.text(text) for text in ("a", "storage", "0", "cpu", "state_dict", "latin1")),
    *(f"c{name}\n".encode() for name in ("torch._utils\n_rebuild_tensor_v2", "torch._utils\n_rebuild_parameter")),
    *(f"c{name}\n".encode() for name in ("torch\nFloatStorage", "collections\nOrderedDict", "_codecs\nencode")),
    *(f"c{name}\n".encode() for name in ("numpy\ndtype", "numpy.core.multiarray\nscalar", "os\nsystem")),
    *(archives.storage(4), archives.tensor(archives.storage(4), (4,), (1,)), archives.GOOD, b"\x8a\x09" + b"\xff" * 9),
]


@fuzz
@given(pieces=st.lists(st.sampled_from(PIECES), max_size=30))
def test_pickles_of_random_opcodes(scratch, pieces):
    archives.write_archive(scratch / "c.ckpt", b"".join(pieces))
    only_our_error(read_tensor_file, scratch / "c.ckpt", (scratch / "c.ckpt").read_bytes())


def replace_one(data: Any, path: list[int], value: object) -> Any:
    """`data` with one of its values, found by following `path`, replaced."""
    if not path or not isinstance(data, dict) or not data:
        return value
    key = sorted(data)[path[0] % len(data)]
    return data | {key: replace_one(data[key], path[1:], value)}


PATHS = st.lists(st.integers(0, 40), min_size=1, max_size=6)


@fuzz
@given(path=PATHS, value=JSON)
def test_metadata_of_our_file(path, value):
    text = json.dumps(replace_one(config_to_json(LDMConfig()), path, value))
    with contextlib.suppress(LDMError):
        config_from_metadata({"format": "comfyui-ldm.1", "ldm_config": text}, "a.safetensors")


@fuzz
@given(config=st.sampled_from([UNetConfig(), VQConfig(), KLConfig(), ScheduleConfig()]), path=PATHS, value=JSON)
def test_json_of_diffusers(scratch, config, path, value):
    (scratch / "config.json").write_text(json.dumps(replace_one(config.to_dict(), path, value)))
    with contextlib.suppress(LDMError):
        read = type(config).from_dict(read_json(scratch / "config.json"), "config.json")
        assert asdict(read).keys() == asdict(config).keys()


@settings(fuzz, max_examples=60)
@given(path=PATHS, value=JSON, edits=st.none() | EDITS)
def test_yaml(scratch, path, value, edits):
    data = yaml.safe_load((DATA / "celeba256.yaml").read_text())
    text = yaml.safe_dump(replace_one(data, path, value)).encode()
    only_our_error(read_compvis_model, scratch / "a.yaml", text if edits is None else edited(text, edits, None))


STAGE_KEYS = [
    "encoder.conv_in.weight",
    "decoder.conv_in.weight",
    "decoder.conv_out.weight",
    "quantize.embedding.weight",
    "encoder.mid.block_1.conv1.weight",
    "encoder.down_blocks.0.resnets.0.conv1.weight",
    "encoder.down_blocks.7.resnets.9.conv1.weight",
    "encoder.down.0.block.0.conv1.weight",
    "encoder.down.999999999.block.0.conv1.weight",
    f"encoder.down.{'9' * 5000}.block.0.conv1.weight",
    "conv_in.weight",
]


@fuzz
@given(tensors=st.dictionaries(st.sampled_from(STAGE_KEYS), st.lists(st.integers(0, 33), max_size=3), max_size=8))
def test_shapes_of_a_first_stage(scratch, tensors):
    """The only configuration that is inferred from shapes."""
    content = save({key: torch.empty(shape) for key, shape in tensors.items()})
    only_our_error(load_first_stage, scratch / "c.safetensors", content)
