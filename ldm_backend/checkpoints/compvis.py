"""The layout of CompVis/latent-diffusion: one table with both networks, and the averaged UNet beside the raw one.

Imports key_maps and the networks, whose names it needs.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor, nn

from ..config.model import FirstStageConfig, LDMConfig, VQConfig
from ..config.strict_json import build
from ..errors import CheckpointError, first_names
from ..networks import skip_init
from ..networks.kl import KLModel
from ..networks.unet import UNet
from ..networks.vq import VQModel
from .key_maps import Source, compvis_first_stage_sources, compvis_unet_sources, ema_key
from .tensor_files import StateDict, TensorFile

UNET, FIRST_STAGE, EMA = "model.diffusion_model.", "first_stage_model.", "model_ema."

# Beside the two networks: schedule buffers, which we compute in float64, and what only training needs.
_SUPERFLUOUS = (
    "alphas_cumprod",
    "betas",
    "ddim_",
    "first_stage_model.loss.",
    "log_one_minus_alphas_cumprod",
    "logvar",
    "lvlb_weights",
    "model_ema.decay",
    "model_ema.num_updates",
    "posterior_",
    "scale_factor",
    "sqrt_",
)


def is_compvis(keys: Iterable[str]) -> bool:
    """Whether these are the keys of a whole latent diffusion model in this layout."""
    return any(key.startswith(UNET) for key in keys)


def has_ema(keys: Iterable[str]) -> bool:
    """Whether averaged weights are there."""
    return any(key.startswith(EMA + "diffusion_model") for key in keys)


def build_first_stage(
    config: FirstStageConfig,
    operations: object = nn,
    device: torch.device | str | None = None,
) -> VQModel | KLModel:
    """The first stage of that kind; see `VQModel` and `KLModel`."""
    if isinstance(config, VQConfig):
        return VQModel(config, operations, device=device)
    return KLModel(config, operations, device=device)


def from_compvis(file: TensorFile, config: LDMConfig, weights: str) -> tuple[LDMConfig, StateDict, StateDict]:
    """Take the tensors of both networks out of a checkpoint.

    Args:
        file: With the keys of `is_compvis`.
        config: Of the model; its scale factor is replaced by the checkpoint's buffer, if there is one.
        weights: "ema" or "raw".

    Returns:
        Configuration, and the tensors of UNet and first stage under our names.

    Raises:
        CheckpointError: A tensor is missing, or one is there that belongs to neither network.
    """
    unet_keys = UNet(config.unet, skip_init, device="meta").state_dict().keys()
    first_stage_keys = build_first_stage(config.vq, skip_init, device="meta").state_dict().keys()
    unet_sources = compvis_unet_sources(config.unet, unet_keys)
    first_stage_sources = compvis_first_stage_sources(config, first_stage_keys)
    raw = {UNET + source.key for source in unet_sources.values()}
    averaged = {ema_key(source.key) for source in unet_sources.values()}
    known = raw | averaged | {FIRST_STAGE + source.key for source in first_stage_sources.values()}
    if foreign := [key for key in file.tensors if key not in known and not key.startswith(_SUPERFLUOUS)]:
        raise CheckpointError(
            f"{file.path}: the weights do not fit the configuration (unexpected keys: {first_names(foreign)}). "
            "Take the configuration and the weights from the same model."
        )
    unet = {
        ours: _take(file, ema_key(source.key) if weights == "ema" else UNET + source.key, source)
        for ours, source in unet_sources.items()
    }
    first_stage = {ours: _take(file, FIRST_STAGE + source.key, source) for ours, source in first_stage_sources.items()}
    return _with_scale_factor(config, file), unet, _linear_attention(first_stage)


def first_stage_from_compvis(file: TensorFile, config: LDMConfig) -> StateDict:
    """The tensors of a first stage that is alone in its file (no prefix), under our names.

    Raises:
        CheckpointError: A tensor is missing.
    """
    keys = build_first_stage(config.vq, skip_init, device="meta").state_dict().keys()
    sources = compvis_first_stage_sources(config, keys)
    return _linear_attention({ours: _take(file, source.key, source) for ours, source in sources.items()})


def _take(file: TensorFile, key: str, source: Source) -> Tensor:
    if key not in file.tensors:
        way_out = "; the file holds no EMA weights, take 'raw'" if key.startswith(EMA) else ""
        raise CheckpointError(
            f"{file.path}: missing keys: {key} (configuration of another model, or cut short{way_out})."
        )
    tensor = file.tensors[key]
    if source.key.rpartition(".")[0].endswith(("qkv", "proj_out")) and tensor.ndim == 3:
        tensor = tensor.squeeze(-1)  # Conv1d there, Linear here
    return tensor if source.qkv is None else _part_of_qkv(file, key, tensor, source)


def _part_of_qkv(file: TensorFile, key: str, tensor: Tensor, source: Source) -> Tensor:
    """Query, key or value of all heads. CompVis orders by heads first: q, k, v of head 0, q, k, v of head 1, ..."""
    rows = tensor.shape[0] if tensor.ndim else 0
    if not rows or rows % (3 * source.heads):
        raise CheckpointError(f"{file.path}: {key} has {rows} rows; expected a multiple of {3 * source.heads}.")
    parts = tensor.reshape(source.heads, 3, -1, *tensor.shape[1:])
    return parts[:, source.qkv].reshape(rows // 3, *tensor.shape[1:])


def _linear_attention(first_stage: Mapping[str, Tensor]) -> StateDict:
    """1x1 convolutions of the attention as the matrices of linear layers."""
    return {
        key: tensor.flatten(1) if ".attentions." in key and tensor.ndim == 4 else tensor
        for key, tensor in first_stage.items()
    }


def _with_scale_factor(config: LDMConfig, file: TensorFile) -> LDMConfig:
    buffer = file.tensors.get("scale_factor")
    if buffer is None:
        return config
    if buffer.numel() != 1 or not buffer.is_floating_point():
        raise CheckpointError(
            f"{file.path}: scale_factor is {buffer.dtype} of shape {tuple(buffer.shape)}; expected one number."
        )
    first_stage = build(partial(replace, config.vq), str(file.path), {"scale_factor": float(buffer)})
    return replace(config, vq=first_stage)
