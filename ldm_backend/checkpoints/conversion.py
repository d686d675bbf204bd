"""From any known layout to our single file, and from there to the Hugging Face folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import safetensors.torch

from ..config.model import KLConfig
from ..errors import CheckpointError, check_choice
from .checkpoint import Checkpoint
from .file_names import WEIGHT_NAMES
from .inspection import sha256_of
from .single_file import DTYPES, replaced_when_done, write_single_file


def convert_to_single_file(checkpoint: Checkpoint, out: Path, dtype: str = "fp32") -> str:
    """Write our single file and, beside it, its checksum in the format of `sha256sum`.

    Args:
        checkpoint: From `read_checkpoint`.
        out: The file, which must not exist.
        dtype: "fp32", "fp16" or "bf16".

    Returns:
        SHA-256 of the file.

    Raises:
        CheckpointError: One of the two exists, or cannot be written.
    """
    checksum = out.with_name(out.name + ".sha256")
    for new in (out, checksum):
        _must_be_new(new)
    metadata = {"weights": checkpoint.weights, "source": checkpoint.path.name, "source_layout": checkpoint.layout}
    write_single_file(out, checkpoint.config, checkpoint.unet, checkpoint.first_stage, dtype, metadata)
    digest = sha256_of(out)
    with replaced_when_done(checksum) as scratch:
        scratch.write_text(f"{digest}  {out.name}\n", encoding="utf-8")
    return digest


def convert_to_folder(checkpoint: Checkpoint, out: Path, dtype: str = "fp32") -> None:
    """Write the Hugging Face layout, which diffusers and this project read.

    Args:
        checkpoint: From `read_checkpoint`.
        out: The folder, which must not exist.
        dtype: "fp32", "fp16" or "bf16".

    Raises:
        CheckpointError: `out` exists, or cannot be written.
    """
    check_choice("dtype", dtype, DTYPES, CheckpointError)
    _must_be_new(out)
    config = checkpoint.config
    stage = "vae" if isinstance(config.vq, KLConfig) else "vqvae"
    parts = {
        "unet": (config.unet, checkpoint.unet),
        stage: (config.vq, checkpoint.first_stage),
    }
    with replaced_when_done(out, folder=True) as scratch:
        for name, (part, tensors) in parts.items():
            (scratch / name).mkdir()
            _write_json(scratch / name / "config.json", part.to_dict())
            converted = {key: tensor.to(DTYPES[dtype]).contiguous() for key, tensor in tensors.items()}
            safetensors.torch.save_file(converted, scratch / name / WEIGHT_NAMES[0], metadata={"format": "pt"})
        (scratch / "scheduler").mkdir()
        _write_json(scratch / "scheduler" / "scheduler_config.json", config.schedule.to_dict())
        _write_json(scratch / "model_index.json", _model_index(stage))


def _model_index(stage: str) -> dict[str, Any]:
    classes = {"unet": "UNet2DModel", "vqvae": "VQModel", "vae": "AutoencoderKL", "scheduler": "DDIMScheduler"}
    parts = {name: ["diffusers", classes[name]] for name in ("scheduler", "unet", stage)}
    return {"_class_name": "LDMPipeline", **parts}


def _write_json(file: Path, data: object) -> None:
    file.write_text(json.dumps(data, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _must_be_new(out: Path) -> None:
    if out.exists():
        raise CheckpointError(f"{out}: exists already, and nothing is overwritten. Choose another name, or remove it.")
    if not out.parent.is_dir():
        raise CheckpointError(f"{out}: the folder {out.parent} does not exist. Make it first.")
