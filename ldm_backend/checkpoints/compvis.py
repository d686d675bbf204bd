"""The layout of CompVis/latent-diffusion: one table with both networks, and the averaged UNet beside the raw one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from einops import rearrange
from torch import Tensor

from ..config.model import FirstStageConfig, LDMConfig
from ..errors import CheckpointError, first_names
from .key_maps import Source, compvis_first_stage_sources, compvis_unet_sources, ema_key
from .tensor_files import StateDict, TensorFile

UNET, FIRST_STAGE, EMA = "model.diffusion_model.", "first_stage_model.", "model_ema."
CONDITIONER = "cond_stage_model."  # read by `conditioner`, which knows which of them belong to a model

# Of a first stage: what only its training and its logs need. `model_ema.` are averaged weights of the first stage,
# which the original code never samples with; `colorize` colours segmentation maps in logs; `quantize.used` renumbers
# codes, which changes no latent.
_FIRST_STAGE_UNUSED = ("loss.", "model_ema.")
_FIRST_STAGE_UNUSED_NAMES = ("colorize", "quantize.used")

# Beside the two networks. Buffers of the schedule, which follow from the configuration and are computed in float64;
# those that DDIMSampler leaves behind; weights of the training loss; counters of the average.
_SUPERFLUOUS = {
    *("betas", "alphas_cumprod", "alphas_cumprod_prev", "sqrt_alphas_cumprod", "sqrt_one_minus_alphas_cumprod"),
    *("log_one_minus_alphas_cumprod", "sqrt_recip_alphas_cumprod", "sqrt_recipm1_alphas_cumprod"),
    *("posterior_variance", "posterior_log_variance_clipped", "posterior_mean_coef1", "posterior_mean_coef2"),
    *("ddim_sigmas", "ddim_alphas", "ddim_alphas_prev", "ddim_sqrt_one_minus_alphas"),
    "ddim_sigmas_for_original_num_steps",
    *("lvlb_weights", "logvar", "model_ema.decay", "model_ema.num_updates"),
}
_MISSING = "Take the configuration that the model was trained with; if it is that one, download the file again."
_NO_EMA = "The file holds no EMA weights, take 'raw'; or its configuration is of another model, take that of this one."
_SCALE_FACTOR = "scale_factor"  # read by `scale_factor_of`
# Whose UNet lies under the same keys and has the layers of text2img-large: told by the encoders of CLIP beside it.
_STABLE_DIFFUSION = {
    "cond_stage_model.transformer.text_model.": "Stable Diffusion 1",
    "cond_stage_model.transformer.embeddings.": "Stable Diffusion 1",
    "cond_stage_model.model.": "Stable Diffusion 2",
    "conditioner.embedders.": "Stable Diffusion XL",
}


def is_compvis(keys: Iterable[str]) -> bool:
    """Whether these are the keys of a whole latent diffusion model in this layout."""
    return any(key.startswith(UNET) for key in keys)


def has_ema(keys: Iterable[str]) -> bool:
    """Whether averaged weights are there."""
    return any(key.startswith(EMA + "diffusion_model") for key in keys)


def refuse_stable_diffusion(file: TensorFile) -> None:
    """Tell what a checkpoint of the other family with this layout is.

    Raises:
        CheckpointError: It has an encoder of CLIP where that family has it.
    """
    for prefix, name in _STABLE_DIFFUSION.items():
        if any(key.startswith(prefix) for key in file.tensors):
            raise CheckpointError(
                f"{file.path}: this is {name} (it holds an encoder of CLIP, {prefix}*); expected a model of this "
                "family, whose texts go through BERT. Load it with Load Checkpoint of ComfyUI."
            )


def from_compvis(file: TensorFile, config: LDMConfig, weights: str) -> tuple[StateDict, StateDict]:
    """Take the tensors of both networks out of a checkpoint.

    Args:
        file: With the keys of `is_compvis`.
        config: Of the model.
        weights: "ema" or "raw".

    Returns:
        The tensors of UNet and first stage under our names.

    Raises:
        CheckpointError: A tensor is missing, or one is there that belongs to neither network.
    """
    unet_sources = compvis_unet_sources(config.unet)
    first_stage_sources = compvis_first_stage_sources(config.first_stage)
    raw = {UNET + source.key for source in unet_sources.values()}
    averaged = {ema_key(source.key) for source in unet_sources.values()}
    known = raw | averaged | {FIRST_STAGE + source.key for source in first_stage_sources.values()}
    known |= _SUPERFLUOUS | {_SCALE_FACTOR}
    foreign = [key for key in file.tensors if key not in known and not key.startswith(CONDITIONER)]
    refuse_foreign(file, [key for key in foreign if not _unused_by_model(key)])
    unet = {
        ours: _take(file, ema_key(source.key) if weights == "ema" else UNET + source.key, source)
        for ours, source in unet_sources.items()
    }
    first_stage = {ours: _take(file, FIRST_STAGE + source.key, source) for ours, source in first_stage_sources.items()}
    return unet, _linear_attention(first_stage)


def first_stage_from_compvis(file: TensorFile, config: FirstStageConfig) -> StateDict:
    """The tensors of a first stage that is alone in its file (no prefix), under our names.

    Raises:
        CheckpointError: A tensor is missing, or one is there that the network does not have.
    """
    sources = compvis_first_stage_sources(config)
    known = {source.key for source in sources.values()}
    refuse_foreign(file, [key for key in file.tensors if key not in known and not unused_by_first_stage(key)])
    return _linear_attention({ours: _take(file, source.key, source) for ours, source in sources.items()})


def _unused_by_model(key: str) -> bool:
    return key.startswith(FIRST_STAGE) and unused_by_first_stage(key.removeprefix(FIRST_STAGE))


def unused_by_first_stage(name: str) -> bool:
    """Whether no latent or picture depends on a tensor of a first stage, named without prefix."""
    return name.startswith(_FIRST_STAGE_UNUSED) or name in _FIRST_STAGE_UNUSED_NAMES


def refuse_foreign(file: TensorFile, foreign: list[str]) -> None:
    """Raise CheckpointError if there are tensors that belong to no network."""
    if foreign:
        raise CheckpointError(
            f"{file.path}: the weights do not fit the configuration (unexpected keys: {first_names(foreign)}). "
            "A tensor that is not understood may change the picture. Take the configuration that the model was trained "
            "with; if nothing needs these tensors, remove them from the file."
        )


def _take(file: TensorFile, key: str, source: Source) -> Tensor:
    if key not in file.tensors:
        raise CheckpointError(f"{file.path}: missing keys: {key}. {_NO_EMA if key.startswith(EMA) else _MISSING}")
    tensor = file.tensors[key]
    if source.key.rpartition(".")[0].endswith(("qkv", "proj_out")) and tensor.ndim == 3:
        tensor = tensor.squeeze(-1)  # Conv1d there, Linear here
    return tensor if source.qkv is None else _part_of_qkv(file, key, tensor, source)


def _part_of_qkv(file: TensorFile, key: str, tensor: Tensor, source: Source) -> Tensor:
    """Query, key or value of all heads. CompVis orders by heads first: q, k, v of head 0, q, k, v of head 1, ..."""
    rows = tensor.shape[0] if tensor.ndim else 0
    if not rows or rows % (3 * source.heads):
        raise CheckpointError(
            f"{file.path}: {key} has {rows} rows; expected a multiple of {3 * source.heads}, for {source.heads} heads. "
            "Take the configuration that the model was trained with."
        )
    return rearrange(tensor, "(heads qkv d) ... -> qkv (heads d) ...", heads=source.heads, qkv=3)[source.qkv]


def _linear_attention(first_stage: Mapping[str, Tensor]) -> StateDict:
    """1x1 convolutions of the attention as the matrices of linear layers."""
    return {
        key: tensor.flatten(1) if ".attentions." in key and tensor.ndim == 4 else tensor
        for key, tensor in first_stage.items()
    }


def scale_factor_of(file: TensorFile) -> float | None:
    """The number that training with `scale_by_std` measured and left in the checkpoint, if it did.

    Raises:
        CheckpointError: It is no number.
    """
    buffer = file.tensors.get(_SCALE_FACTOR)
    if buffer is None:
        return None
    if buffer.numel() != 1 or not buffer.is_floating_point():
        raise CheckpointError(
            f"{file.path}: scale_factor is {buffer.dtype} of shape {tuple(buffer.shape)}; expected one number. "
            "Say it with scale_factor, and remove this one from the file."
        )
    return float(buffer)
