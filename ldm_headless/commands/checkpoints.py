"""`ldm convert`, `inspect` and `download`: checkpoints without a host. Torch is imported when needed."""

import json
import os
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ldm_backend.errors import InputError
from ldm_backend.hub.models import DEFAULT_REPO, DEFAULT_REVISION

from ..host.install import find_host
from ..terminal import result, say
from .options import ConfigOption, Weights, WeightsOption
from .text_tables import print_table

if TYPE_CHECKING:
    from ldm_backend.checkpoints.inspection import CheckpointInfo
    from ldm_backend.config.model import LDMConfig

_WEIGHTS_TEXT = {"ema": "EMA", "raw": "raw", "only": "one set, of unknown kind"}


class Dtype(StrEnum):
    """Of the tensors on disk."""

    FP32 = "fp32"
    FP16 = "fp16"
    BF16 = "bf16"


class Layout(StrEnum):
    """Of the output."""

    SINGLE_FILE = "single-file"
    FOLDER = "folder"


def convert(
    source: Annotated[Path, typer.Argument(metavar="IN", help="A checkpoint in any layout: file or folder.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="What to make; must not exist.")],
    to: Annotated[Layout, typer.Option(help="One safetensors file, or the Hugging Face folder.")] = Layout.SINGLE_FILE,
    dtype: Annotated[Dtype, typer.Option(help="Precision on disk.")] = Dtype.FP32,
    weights: WeightsOption = Weights.AUTO,
    config: ConfigOption = None,
    scale_factor: Annotated[float | None, typer.Option(help="Replaces that of the configuration.")] = None,
) -> None:
    """Convert a checkpoint, and print the path of the result. A single file gets its checksum beside it."""
    from ldm_backend.checkpoints.checkpoint import read_checkpoint
    from ldm_backend.checkpoints.conversion import convert_to_folder, convert_to_single_file

    checkpoint = read_checkpoint(source, weights.value, config, scale_factor)
    if to is Layout.FOLDER:
        for limit in convert_to_folder(checkpoint, out, dtype.value):
            say(f"{limit} This project reads the folder.", "yellow")
    else:
        convert_to_single_file(checkpoint, out, dtype.value)
    say(f"layout {checkpoint.layout}, weights: {_WEIGHTS_TEXT[checkpoint.weights]}, written as {dtype.value}")
    result(out)


def inspect(
    path: Annotated[Path, typer.Argument(metavar="PATH", help="A checkpoint in any layout: file or folder.")],
    config: ConfigOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Show what is in a checkpoint: layout, weights, parameters, precision, hashes, configuration.

    Nothing is loaded or computed; `ldm verify` tells whether it draws what it should.
    """
    from ldm_backend.checkpoints.inspection import inspect_checkpoint

    info = inspect_checkpoint(path, config)
    if as_json:
        result(json.dumps(_as_json(info), indent=2))
        return
    print_table(_summary(info))
    if info.config:
        print_table(_settings(info.config))
    if info.problem:
        say(info.problem, "yellow")


def download(
    repo: Annotated[str, typer.Argument(metavar="[REPO_ID]", help="Name on the Hugging Face hub.")] = DEFAULT_REPO,
    revision: Annotated[
        str | None, typer.Option(help="Branch, tag or commit. Default: the known commit of the default model, or main.")
    ] = None,
    variant: Annotated[
        str | None, typer.Option(help="Of the weights, like fp16. Default: the plain ones, or else the only ones.")
    ] = None,
    to: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Default: models/ldm/NAME of the ComfyUI at COMFYUI_PATH.")
    ] = None,
) -> None:
    """Download a model, verify it, and print its folder. After an interruption the same command continues."""
    from ldm_backend.hub import models

    models.check_name(repo)
    if revision is None and repo == DEFAULT_REPO:
        revision = DEFAULT_REVISION
    out = to or _model_folder(repo)
    try:
        models.download(repo, out, revision, variant)
    except (KeyboardInterrupt, SystemExit):  # Ctrl-C, SIGTERM
        say("interrupted: what has arrived is kept, and the same command continues")
        raise
    result(out)


def _model_folder(repo: str) -> Path:
    """Where the ComfyUI that COMFYUI_PATH names looks for the model."""
    name = repo.rpartition("/")[2]
    if not os.environ.get("COMFYUI_PATH"):
        raise InputError(
            f"no place for {repo}: give a folder with --to, or set COMFYUI_PATH to the ComfyUI whose models/ldm/{name} "
            "it shall be."
        )
    return find_host().path / "models" / "ldm" / name


def _as_json(info: "CheckpointInfo") -> dict[str, Any]:
    from ldm_backend.checkpoints.single_file import config_to_json

    return {
        "path": str(info.path),
        "layout": info.layout,
        "weights": info.weights,
        "has_ema": info.has_ema,
        "unet_parameters": info.unet_parameters,
        "first_stage_parameters": info.first_stage_parameters,
        "conditioner_parameters": info.conditioner_parameters,
        "task": info.task,
        "dtypes": list(info.dtypes),
        "files": [{"path": str(path), "bytes": size, "sha256": sha256} for path, size, sha256 in info.files],
        "config": config_to_json(info.config) if info.config else None,
        "problem": info.problem,
    }


def weights_text(weights: str, has_ema: bool) -> str:
    """Which set of weights was taken, and whether the file holds the other one too."""
    also = {"ema": " (the file holds raw ones too)", "raw": " (the file holds EMA too)"}
    return _WEIGHTS_TEXT[weights] + (also.get(weights, "") if has_ema else "")


def _summary(info: "CheckpointInfo") -> list[tuple[str, str]]:
    rows = [
        ("path", str(info.path)),
        ("layout", info.layout),
        ("weights", weights_text(info.weights, info.has_ema)),
        ("UNet", f"{info.unet_parameters:,} parameters"),
        ("first stage", f"{info.first_stage_parameters:,} parameters"),
        ("dtypes", ", ".join(info.dtypes)),
    ]
    if info.task:
        rows.insert(2, ("task", info.task))
    if info.conditioner_parameters:
        rows.append(("conditioner", f"{info.conditioner_parameters:,} parameters"))
    for path, size, sha256 in info.files:
        rows += [("file", str(path)), ("  size", f"{size:,} bytes"), ("  SHA-256", sha256)]
    return rows if info.config else [*rows, ("config", "none")]


def _settings(config: "LDMConfig") -> list[tuple[str, str]]:
    from ldm_backend.checkpoints.single_file import config_to_json

    parts = config_to_json(config)
    return [(f"{part}.{name}", json.dumps(value)) for part, values in parts.items() for name, value in values.items()]
