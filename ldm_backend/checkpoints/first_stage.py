"""The first stage alone: VQ-f4, KL-f8 and their like, for encoding and decoding without a diffusion model.

All that a first stage needs is visible in its tensors, so a file without configuration is enough.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..config.model import FirstStageConfig, KLConfig, VQConfig
from ..config.strict_json import build
from ..errors import CheckpointError, first_names, printable
from ..locations import STAGE_FOLDERS, find_single_file, find_weights
from ..networks import skip_init
from ..networks.first_stage import FirstStage, build_first_stage
from .checkpoint import load_into, with_current_names
from .compvis import FIRST_STAGE, first_stage_from_compvis, scale_factor_of
from .configuration import first_stage_config, read_json
from .shards import read_weights
from .single_file import FIRST_STAGE_PREFIX, config_from_metadata
from .tensor_files import StateDict, TensorFile, under

# First convolution of an encoder block, with level and block; the norm of an attention inside a level, with that of the
# encoder, of CompVis' decoder or of diffusers'. Attention of the middle block.
_RESNET = re.compile(r"encoder\.(?:down\.|down_blocks\.)(\d{1,3})\.(?:block|resnets)\.(\d{1,3})\.conv1\.weight")
_ATTENTION = re.compile(
    r"(?:encoder\.(?:down|down_blocks)\.(\d{1,3})|decoder\.up\.(\d{1,3})|decoder\.up_blocks\.(\d{1,3}))"
    r"\.(?:attn|attentions)\.\d{1,3}\.(?:norm|group_norm)\.weight"
)
_MID_ATTENTION = tuple(f"{part}.{name}" for part in ("encoder", "decoder") for name in ("mid.attn_1", "mid_block.att"))

# Tensors whose sides tell the configuration, beside those of the encoder's blocks, and their numbers of dimensions.
_INFERRED_FROM = {
    "encoder.conv_in.weight": 4,
    "decoder.conv_in.weight": 4,
    "decoder.conv_out.weight": 4,
    "quantize.embedding.weight": 2,
    "post_quant_conv.weight": 4,
}


def load_first_stage(
    path: str | Path, device: str | torch.device = "cpu", scale_factor: float | None = None
) -> FirstStage:
    """Load a first stage.

    Args:
        path: A first stage alone (CompVis or diffusers keys), any whole checkpoint, or a Hugging Face folder.
        device: Where it goes.
        scale_factor: Replaces that of the file; 1.0 for latents as the first stage makes them. A whole original
            checkpoint with a KL first stage and without its factor, which may be in its YAML alone, needs it.

    Raises:
        CheckpointError: Missing, damaged, refused or unfitting files, or nobody says the scale factor.
        ConfigError: Not this family.
    """
    config, tensors = read_first_stage(path, scale_factor)
    module = build_first_stage(config, skip_init, device="meta")
    load_into(module, tensors, f"{path} (first stage)")
    return module.to(torch.device(device))


def read_first_stage(path: str | Path, scale_factor: float | None = None) -> tuple[FirstStageConfig, StateDict]:
    """Configuration and tensors of a first stage under our names; see `load_first_stage`."""
    path = Path(path)
    for part in STAGE_FOLDERS:
        if (path / part / "config.json").is_file():
            path = path / part
    if (path / "config.json").is_file():
        config = first_stage_config(read_json(path / "config.json"), path / "config.json", scale_factor)
        return config, with_current_names(read_weights(find_weights(path)))
    if path.is_dir() and (single := find_single_file(path)):
        path = single
    file = read_weights(path)
    for prefix in (FIRST_STAGE, FIRST_STAGE_PREFIX):
        if inner := under(prefix, file.tensors):
            own = config_from_metadata(file.metadata, str(path))
            config, tensors = _from_tensors(TensorFile(path, inner), own.first_stage if own else None)
            factor = scale_factor if own or scale_factor is not None else _measured(config, file)
            return _scaled(config, path, factor), tensors
    config, tensors = _from_tensors(file, None)
    return _scaled(config, path, scale_factor), tensors


def _scaled(config: FirstStageConfig, path: Path, factor: float | None) -> FirstStageConfig:
    """With another scale factor, if there is one."""
    return config if factor is None else build(partial(replace, config), str(path), {"scale_factor": float(factor)})


def _measured(config: FirstStageConfig, file: TensorFile) -> float | None:
    """The scale factor that a whole original checkpoint holds; VQ latents of this family have none.

    Raises:
        CheckpointError: There is none, and only a YAML can say whether it is 1.
    """
    factor = scale_factor_of(file)
    if factor is None and isinstance(config, KLConfig):
        raise CheckpointError(
            f"{file.path}: no scale_factor, by which the latents of its diffusion model are multiplied. Say it with "
            "scale_factor: the number in its YAML, or 1.0 for latents as the first stage makes them."
        )
    return factor


def _from_tensors(file: TensorFile, config: FirstStageConfig | None) -> tuple[FirstStageConfig, StateDict]:
    tensors = file.tensors
    if "decoder.conv_in.weight" not in tensors or "encoder.conv_in.weight" not in tensors:
        prefixes = [
            key.removesuffix("encoder.conv_in.weight") for key in tensors if key.endswith(".encoder.conv_in.weight")
        ]
        if prefixes:
            raise CheckpointError(
                f"{file.path}: its names have {printable(prefixes[0])} before encoder.*; expected nothing there. "
                "Save them without it."
            )
        raise CheckpointError(
            f"{file.path}: holds no first stage; expected encoder.*, decoder.* and post_quant_conv.*. "
            "Give a first stage, or a whole checkpoint."
        )
    config = config or infer_first_stage_config(tensors, file.path)
    if "encoder.mid.block_1.conv1.weight" in tensors:
        return config, first_stage_from_compvis(file, config)
    return config, with_current_names(file)


def infer_first_stage_config(tensors: Mapping[str, Tensor], source: Path) -> FirstStageConfig:
    """Read widths, levels, channels, attention and codebook off the names and shapes.

    Args:
        tensors: Of a first stage, under the names of CompVis or of diffusers.
        source: Named in errors.

    Raises:
        CheckpointError: No blocks found.
        ConfigError: A network outside the family.
    """
    matches = {key: match for key in tensors if (match := _RESNET.fullmatch(key))}
    for key, dimensions in (dict.fromkeys(matches, 4) | _INFERRED_FROM).items():
        if key in tensors and tensors[key].ndim != dimensions:
            shape = tuple(tensors[key].shape)
            raise CheckpointError(
                f"{source}: {first_names([key])} is {shape}; expected {dimensions} dimensions. Save it whole."
            )
    found = {(int(match[1]), int(match[2])): tensors[key].shape[0] for key, match in matches.items()}
    levels = {level for level, block in found if block == 0}
    if not found or levels != set(range(1 + max(level for level, _ in found))):
        raise CheckpointError(
            f"{source}: the encoder's blocks are incomplete; the file is cut short. Download it again."
        )
    shape = {
        "in_channels": tensors["encoder.conv_in.weight"].shape[1],
        "out_channels": tensors["decoder.conv_out.weight"].shape[0] if "decoder.conv_out.weight" in tensors else 3,
        "latent_channels": tensors["decoder.conv_in.weight"].shape[1],
        "block_out_channels": tuple(found[level, 0] for level in sorted(levels)),
        "layers_per_block": sum(level == 0 for level, _ in found),
        **_attention(tensors, len(levels)),
    }
    codebook = tensors.get("quantize.embedding.weight")
    if codebook is None:
        post_quant = tensors.get("post_quant_conv.weight")
        return build(KLConfig, str(source), shape | {"embed_dim": None if post_quant is None else post_quant.shape[1]})
    codes = {"num_vq_embeddings": codebook.shape[0], "vq_embed_dim": codebook.shape[1]}
    return build(VQConfig, str(source), shape | codes)


def _attention(tensors: Mapping[str, Tensor], levels: int) -> dict[str, Any]:
    """Where attention is, by its names; whether each of its layers is there is found when they are taken."""
    where = [match.groups() for key in tensors if (match := _ATTENTION.fullmatch(key))]
    # CompVis numbers the decoder's levels from the finest, diffusers from the coarsest.
    encoder = {int(down) for down, _, _ in where if down}
    decoder = {int(theirs) if theirs else levels - 1 - int(ours) for _, theirs, ours in where if theirs or ours}
    return {
        "encoder_attention": tuple(sorted(encoder)),
        "decoder_attention": tuple(sorted(decoder)),
        "mid_block_add_attention": any(key.startswith(_MID_ATTENTION) for key in tensors),
    }
