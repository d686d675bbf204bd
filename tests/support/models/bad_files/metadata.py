"""Our single file with metadata that a writer, ours or another, may have put there beside the configuration."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path

from .configurations import configured, single_file
from .registry import bad
from .tensors import with_header

GOOD = {"format": "comfyui-ldm.1", "ldm_config": configured(lambda _: None)}


def rewrite(file: Path, change: Callable[[bytes], bytes]) -> None:
    """Another header before the same numbers."""
    data = file.read_bytes()
    end = 8 + int.from_bytes(data[:8], "little")
    file.write_bytes(with_header(change(data[8:end]), data[end:]))


@bad(
    "weights|configuration|do not fit|refused: a header|format",
    workflow_of_9_mib=GOOD | {"workflow": json.dumps({"nodes": ["x" * 9 * 2**20]})},
    prompt_of_quotes=GOOD | {"prompt": '"' * (5 * 2**20)},
    many_texts=GOOD | {f"key {n}": "x" * 50 for n in range(150_000)},
    weights_of_a_workflow=GOOD | {"weights": '{"nodes": []}'},
    weights_that_are_a_number=GOOD | {"weights": "5"},
    weights_of_nothing=GOOD | {"weights": ""},
    weights_of_megabytes=GOOD | {"weights": "ema" * 2**20},
    weights_with_a_line=GOOD | {"weights": "ema\nldm: all is well"},
    format_of_a_workflow=GOOD | {"format": '{"a": 1}'},
    format_of_megabytes=GOOD | {"format": "\x1b]0;x\x07" * 10**5},
    configuration_of_a_workflow=GOOD | {"ldm_config": '{"nodes": []}'},
    configuration_of_nan=GOOD | {"ldm_config": "NaN"},
    configuration_of_a_surrogate=GOOD | {"ldm_config": '{"unet": "\\ud800"}'},
    configuration_of_digits=GOOD | {"ldm_config": "1" * 10**6},
    configuration_of_depth=GOOD | {"ldm_config": "[" * 10**6},
    configuration_of_keys=GOOD | {"ldm_config": json.dumps({str(n): n for n in range(10**5)})},
)
def metadata_of_a_single_file(f: Path, texts: Mapping[str, str]) -> Path:
    return single_file(f, texts)


@bad(
    "cannot be read|no configuration",
    number=5,
    nothing=None,
    list=["a"],
    object={"a": {"b": "c"}},
    values_that_are_numbers={"weights": 5},
    values_that_are_nothing={"weights": None},
    values_that_are_lists={"weights": ["ema"]},
    metadata_in_metadata={"__metadata__": {"weights": "ema"}},
)
def metadata_that_are_no_texts(f: Path, metadata: object) -> Path:
    file = single_file(f, GOOD)
    rewrite(file, lambda header: json.dumps(json.loads(header) | {"__metadata__": metadata}).encode())
    return file


@bad("cannot be read", half_of_a_character=b"\\ud800", no_utf8=b"\xff\xfe", control=b"\x01", quote=b'"')
def metadata_that_are_no_json(f: Path, text: bytes) -> Path:
    file = single_file(f, GOOD | {"workflow": "MARK"})
    rewrite(file, lambda header: header.replace(b"MARK", text))
    return file
