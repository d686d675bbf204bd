"""`ldm verify`: a checkpoint's hashes and pixels beside the known ones. Torch is imported when needed."""

import json
import math
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import VerificationError
from ..terminal import result
from .checkpoints import weights_text
from .generate import device_here
from .options import CheckpointArgument, ConfigOption, DeviceOption, Precision, Weights, WeightsOption
from .text_tables import print_table

if TYPE_CHECKING:
    from ldm_backend.verification import Digest, Verification

_SHORT = 12  # characters of a hash in the line
_SETS = {"ema": "EMA", "raw": "raw", "only": "one set"}


def verify(
    checkpoint: CheckpointArgument,
    device: DeviceOption = None,
    precision: Annotated[Precision, typer.Option(help="Of the UNet; auto: fp16 on CUDA.")] = Precision.FP32,
    config: ConfigOption = None,
    weights: WeightsOption = Weights.AUTO,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Compare a checkpoint's hashes and pixels with those that are known. The last line is one for a report.

    Nine pixels are drawn as a test of diffusers once did with the released weights: seed 0, 5 DDIM steps, eta 0. The
    exit code is 1 where they differ by more than the reference allows.
    """
    from ldm_backend.verification import verify_checkpoint

    found = verify_checkpoint(
        checkpoint, device_here(device), weights=weights.value, config=config, precision=precision.value
    )
    line = report_line(found)
    if as_json:
        result(json.dumps(_as_json(found, line), indent=2))
    else:
        print_table(table_rows(found))
        result(line)
    if found.verdict == "FAIL":
        raise VerificationError(_failure(found))


def report_line(found: "Verification") -> str:
    """All that a report needs, without a path: what was verified, where it was computed, and the outcome."""
    from ..generation.image_maker import machine_name, versions

    here = versions()
    hashes = {"files": [_short(file.sha256, file.known) for file in found.files]}
    for digest in found.digests:
        hashes[_network(digest)] = [_short(digest.sha256, digest.known)]
    parts = [
        f"comfyui-ldm {here['ldm']}",
        f"{found.layout}, {_SETS[found.weights]}",
        *(f"{name} {', '.join(texts)}" for name, texts in hashes.items()),
        f"torch {here['torch']}",
        f"{found.device} {machine_name(found.device)}",
        found.precision,
        f"pixels {' '.join(_numbers(found.pixels))}",
    ]
    if found.reference:
        name, tolerance = found.reference.name, found.reference.tolerance
        parts[-1] = f"{name}: difference {found.difference:.6f} of {tolerance:g}"
    return f"ldm verify: {found.verdict} | {' | '.join(parts)}"


def table_rows(found: "Verification") -> list[tuple[str, str]]:
    """Label and value of each line of the answer."""
    rows = [
        ("path", str(found.path)),
        ("layout", found.layout),
        ("weights", weights_text(found.weights, found.has_ema)),
    ]
    for file in found.files:
        rows += [("file", str(file.path)), ("  size", f"{file.size:,} bytes"), ("  SHA-256", file.sha256)]
        rows.append(("  known as", file.known or "not known"))
    for digest in found.digests:
        rows += [(f"{_network(digest)} tensors", digest.sha256), ("  known as", digest.known or "not known")]
    rows += _in_threes("pixels drawn", found.pixels)
    if found.reference is None:
        return [*rows, ("reference", "none: nobody recorded pixels of this model")]
    rows += _in_threes("pixels expected", found.reference.pixels)
    rows.append(("  reference", f"{found.reference.name}, {found.reference.source}"))
    return [*rows, ("  difference", f"{found.difference:.6f}, allowed {found.reference.tolerance:g}")]


def _in_threes(label: str, pixels: tuple[float, ...]) -> list[tuple[str, str]]:
    numbers = _numbers(pixels)
    return [("" if at else label, "  ".join(numbers[at : at + 3])) for at in range(0, len(numbers), 3)]


def _numbers(pixels: tuple[float, ...]) -> list[str]:
    return [f"{pixel:.5f}" for pixel in pixels]


def _short(sha256: str, known: str | None) -> str:
    return sha256[:_SHORT] + (" known" if known else "")


def _network(digest: "Digest") -> str:
    return f"{_SETS[digest.weights]} {digest.network}" if digest.weights in ("ema", "raw") else digest.network


def _failure(found: "Verification") -> str:
    name = found.reference.name if found.reference else ""
    factor = found.config.first_stage.scale_factor
    reason = f"its scale factor is {factor}, that of {name} is 1; or " if factor != 1.0 else ""
    return (
        f"{found.path}: the pixels are not those of {name}: {reason}it holds other weights, or this machine computes "
        "otherwise. Where the hashes are known, repeat with --device cpu --precision fp32 and report the line. Another "
        "model of the same shape, such as FFHQ, needs --config ffhq-256."
    )


def _as_json(found: "Verification", line: str) -> dict[str, Any]:
    reference = found.reference
    return {
        "path": str(found.path),
        "layout": found.layout,
        "weights": found.weights,
        "has_ema": found.has_ema,
        "files": [
            {"path": str(file.path), "bytes": file.size, "sha256": file.sha256, "known": file.known}
            for file in found.files
        ],
        "digests": [asdict(digest) for digest in found.digests],
        "device": found.device,
        "precision": found.precision,
        "pixels": [_finite(pixel) for pixel in found.pixels],
        "reference": reference
        and {"name": reference.name, "pixels": list(reference.pixels), "tolerance": reference.tolerance},
        "difference": _finite(found.difference),
        "verdict": found.verdict,
        "line": line,
    }


def _finite(number: float | None) -> float | None:
    return number if number is not None and math.isfinite(number) else None
