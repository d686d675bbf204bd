"""From any known layout to our single file, and from there to the Hugging Face folder."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
from torch import Tensor

from ..config.conditioning import LowResolutionConfig, TextConfig, conditioning_to_json
from ..config.model import KLConfig, LDMConfig
from ..errors import CheckpointError, check_choice, printable
from ..locations import (
    CONDITIONER_FOLDER,
    STAGE_FOLDERS,
    TEXT_FOLDER,
    TOKENIZER_FOLDER,
    check_free,
    weight_names,
)
from ..texts.bert_json import text_config_to_json
from .checkpoint import Checkpoint, check_readable
from .conditioner import text_encoder_to_diffusers
from .inspection import sha256_of
from .single_file import DTYPES, fill_single_file, in_dtype, written
from .tokenizer_folder import vocabulary_metadata, write_tokenizer

_MOST_IN_NAME = 255  # characters that a file's name can have
_PIPELINE_DOWNSCALE, _PIPELINE_TOKENS = 8, 77  # of every model, for diffusers' LDMTextToImagePipeline


def convert_to_single_file(checkpoint: Checkpoint, out: Path, dtype: str = "fp32") -> str:
    """Write our single file and, beside it, its checksum in the format of `sha256sum`.

    Args:
        checkpoint: From `read_checkpoint`.
        out: The file, which must not exist.
        dtype: "fp32", "fp16" or "bf16".

    Returns:
        SHA-256 of the file.

    Raises:
        CheckpointError: One of the two exists, cannot be written, or could not be loaded again.
    """
    _must_be_new(out)
    checksum = out.with_name(out.name + ".sha256")
    _must_be_new(checksum)
    source = printable(checkpoint.path.name, _MOST_IN_NAME)
    metadata = {"weights": checkpoint.weights, "source": source, "source_layout": checkpoint.layout}
    metadata |= vocabulary_metadata(checkpoint.vocabulary)
    networks = (checkpoint.unet, checkpoint.first_stage)
    with written(out) as scratch:
        fill_single_file(scratch, checkpoint.config, *networks, dtype, metadata, checkpoint.conditioner)
        check_readable(scratch)
    digest = sha256_of(out)
    with written(checksum) as scratch:
        scratch.write_bytes(f"{digest}  ".encode() + os.fsencode(out.name) + b"\n")
    return digest


def convert_to_folder(checkpoint: Checkpoint, out: Path, dtype: str = "fp32") -> tuple[str, ...]:
    """Write the Hugging Face layout, which diffusers' LDM pipelines and this project read, with a card.

    What diffusers has no pipeline for gets a folder that says what the UNet sees beside the noise, and no
    model_index.json: diffusers stops there, where it would take the model for another.

    Args:
        checkpoint: From `read_checkpoint`.
        out: The folder, which must not exist.
        dtype: "fp32", "fp16" or "bf16".

    Returns:
        What diffusers cannot hold of this model; it is in the card too.

    Raises:
        CheckpointError: `out` exists, or cannot be written, or a number is too large for the dtype.
    """
    check_choice("dtype", dtype, DTYPES, CheckpointError)
    _must_be_new(out)
    config = checkpoint.config
    parts = {
        "unet": (config.unet, checkpoint.unet),
        STAGE_FOLDERS[0]: (config.first_stage, checkpoint.first_stage),
    }
    limits = diffusers_limits(config)
    with written(out, folder=True) as scratch:
        for name, (part, tensors) in parts.items():
            _write_part(scratch / name, part.to_dict(), tensors, dtype)
        (scratch / "scheduler").mkdir()
        _write_json(scratch / "scheduler" / "scheduler_config.json", config.schedule.to_dict())
        if _has_pipeline(config):
            _write_json(scratch / "model_index.json", _model_index(config))
        if isinstance(config.conditioning, TextConfig) and checkpoint.vocabulary is not None:
            data, tensors = text_config_to_json(config.conditioning), text_encoder_to_diffusers(checkpoint.conditioner)
            _write_part(scratch / TEXT_FOLDER, data, tensors, dtype)
            write_tokenizer(scratch / TOKENIZER_FOLDER, checkpoint.vocabulary, config.conditioning.max_tokens)
        elif not _has_pipeline(config) and config.conditioning is not None:
            data = conditioning_to_json(config.conditioning)
            _write_part(scratch / CONDITIONER_FOLDER, data, checkpoint.conditioner, dtype)
        (scratch / "README.md").write_text(_card(checkpoint, limits, dtype), encoding="utf-8")
        check_readable(scratch)
    return limits


def _write_part(folder: Path, settings: dict[str, Any], tensors: Mapping[str, Tensor], dtype: str) -> None:
    """A part with its configuration, and with its weights if it has any."""
    folder.mkdir()
    _write_json(folder / "config.json", settings)
    if converted := in_dtype(tensors, dtype, f"{folder.name}: "):
        safetensors.torch.save_file(converted, folder / weight_names(folder.name)[0], metadata={"format": "pt"})


def _has_pipeline(config: LDMConfig) -> bool:
    return config.conditioning is None or isinstance(config.conditioning, LowResolutionConfig | TextConfig)


def diffusers_limits(config: LDMConfig) -> tuple[str, ...]:
    """What diffusers' classes cannot hold of a model, each as a sentence; they stop with an error there."""
    limits = []
    if (config.unet.num_attention_heads or 1) > 1 and config.unet.cross_attention_dim is None:
        limits.append(
            f"The UNet has {config.unet.num_attention_heads} attention heads at every level; UNet2DModel knows only "
            "one number of channels a head for all levels, and does not load this one."
        )
    if isinstance(config.first_stage, KLConfig) and config.first_stage.embed_dim is not None:
        limits.append(
            f"The first stage's latents have {config.first_stage.embed_dim} channels and its decoder takes "
            f"{config.first_stage.latent_channels}; AutoencoderKL knows one number for both, and does not load "
            "this one."
        )
    if not _has_pipeline(config):
        limits.append(
            f"diffusers has no pipeline for this kind of model ({config.task}); it can load the parts one by one."
        )
    elif isinstance(config.conditioning, TextConfig):
        limits += _text_limits(config, config.conditioning)
    elif config.conditioning is not None and config.first_stage.scale_factor != 1.0:
        limits.append(
            f"The latents have the scale factor {config.first_stage.scale_factor:g}; LDMSuperResolutionPipeline "
            "applies none, and its pictures are wrong."
        )
    return tuple(limits)


def _text_limits(config: LDMConfig, one: TextConfig) -> list[str]:
    limits = []
    if config.first_stage.downscale != _PIPELINE_DOWNSCALE:
        limits.append(
            f"A cell of the latents stands for {config.first_stage.downscale} pixels along a side; "
            f"LDMTextToImagePipeline reckons with {_PIPELINE_DOWNSCALE}: ask it for height and width that are "
            f"{_PIPELINE_DOWNSCALE} times those of the latents ({config.unet.sample_size})."
        )
    if one.max_tokens != _PIPELINE_TOKENS:
        limits.append(
            f"The text encoder takes {one.max_tokens} tokens, and LDMTextToImagePipeline always makes "
            f"{_PIPELINE_TOKENS}; it stops with an error."
        )
    return limits


def _model_index(config: LDMConfig) -> dict[str, Any]:
    stage = "AutoencoderKL" if isinstance(config.first_stage, KLConfig) else "VQModel"
    # Both pipelines have their first stage in `vqvae`, whichever kind it is.
    unet = "UNet2DModel" if config.unet.cross_attention_dim is None else "UNet2DConditionModel"
    classes = {"scheduler": "DDIMScheduler", "unet": unet, STAGE_FOLDERS[0]: stage}
    index = {name: ["diffusers", kind] for name, kind in classes.items()}
    if isinstance(config.conditioning, TextConfig):
        index[TEXT_FOLDER] = ["latent_diffusion", "LDMBertModel"]
        index[TOKENIZER_FOLDER] = ["transformers", "BertTokenizer"]
    return {"_class_name": _pipeline(config), **index}


def _pipeline(config: LDMConfig) -> str:
    if isinstance(config.conditioning, TextConfig):
        return "LDMTextToImagePipeline"
    return "LDMPipeline" if config.conditioning is None else "LDMSuperResolutionPipeline"


def _card(checkpoint: Checkpoint, limits: tuple[str, ...], dtype: str) -> str:
    held = "\n".join(f"- {limit}" for limit in limits) or (
        f"diffusers' `{_pipeline(checkpoint.config)}` loads it whole."
    )
    return (
        f"# {checkpoint.path.stem}\n\nA latent diffusion model in the Hugging Face layout, converted by comfyui-ldm "
        f"from the layout {checkpoint.layout} (weights: {checkpoint.weights}, written as {dtype}).\n\n## With "
        f"diffusers\n\n{held}\n"
    )


def _write_json(file: Path, data: object) -> None:
    file.write_text(json.dumps(data, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _must_be_new(out: Path) -> None:
    check_free(out)
    if not out.parent.is_dir():
        raise CheckpointError(f"{out}: the folder {out.parent} does not exist. Make it first.")
