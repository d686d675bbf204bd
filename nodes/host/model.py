"""The denoiser as a native MODEL: a `BaseModel` in a `ModelPatcher`, which the host manages, offloads and patches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import comfy.conds
import comfy.latent_formats
import comfy.model_base
import comfy.model_management
import comfy.ops
import comfy.supported_models_base
import torch
from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import CallbacksMP
from torch import Tensor

from ...ldm_backend.checkpoints.checkpoint import Checkpoint, load_into
from ...ldm_backend.checkpoints.file_marks import FileMark
from ...ldm_backend.config.conditioning import ClassConfig, SegmentationConfig
from ...ldm_backend.config.model import LDMConfig
from ...ldm_backend.errors import InputError
from ...ldm_backend.kernels.fp32 import fp32
from ...ldm_backend.networks.conditioners.class_embedder import ClassEmbedder
from ...ldm_backend.networks.conditioners.spatial_rescaler import SpatialRescaler
from ...ldm_backend.networks.first_stage import FirstStage
from ...ldm_backend.networks.precision import FIRST_STAGE_PRECISIONS, FORMATS, TF32, resolve, set_precision
from ...ldm_backend.sampling.schedule import Schedule
from ...ldm_backend.views.latent_rgb import LatentRGB, fit_latent_rgb
from .conditioning import channels_beside, context_of
from .layers import host_layers
from .patches import check_patches
from .sigma_table import make_model_sampling
from .unet import HostUNet

_CPU = torch.device("cpu")
# The names of diffusers to those of the host and CompVis.
_BETA_SCHEDULES = {"scaled_linear": "linear", "linear": "sqrt_linear", "squaredcos_cap_v2": "cosine"}


class LDMLatentFormat(comfy.latent_formats.LatentFormat):
    """Unscaled latents of the first stage, and the colours by which the host previews them."""

    def __init__(self, config: LDMConfig, first_stage: FirstStage) -> None:
        self.scale_factor = 1.0  # the first stage applies its own
        self.latent_channels = config.first_stage.z_channels
        # The host's spelling; read by hosts newer than 0.3.75.
        self.spacial_downscale_ratio = config.first_stage.downscale
        self._first_stage = first_stage

    @cached_property
    def _colours(self) -> LatentRGB:
        """Fitted when first asked for: a small decode, which a host with previews switched off never needs."""
        return fit_latent_rgb(self._first_stage)

    @property
    def latent_rgb_factors(self) -> list[list[float]]:  # pyright: ignore[reportIncompatibleVariableOverride]
        """One row of three colours for each latent channel."""
        return self._colours.weight

    @property
    def latent_rgb_factors_bias(self) -> list[float]:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Three colours."""
        return self._colours.bias


class LDMModelConfig(comfy.supported_models_base.BASE):
    """What `BaseModel` wants to know.

    Args:
        dtype: Of the UNet's weights and arithmetic.
    """

    unet_extra_config: dict[str, Any] = {}  # the base class would add head counts that our UNet does not take

    def __init__(self, config: LDMConfig, latent_format: LDMLatentFormat, dtype: torch.dtype) -> None:
        super().__init__({"config": config.unet})
        self.latent_format = latent_format
        # For nodes of the host that patch the sampling of a model; this one has its own, `make_model_sampling`.
        self.sampling_settings = {
            "beta_schedule": _BETA_SCHEDULES[config.schedule.beta_schedule],
            "linear_start": config.schedule.beta_start,
            "linear_end": config.schedule.beta_end,
            "timesteps": config.schedule.num_train_timesteps,
            "zsnr": config.schedule.rescale_betas_zero_snr,
        }
        self.supported_inference_dtypes = [dtype]
        self.set_inference_dtype(dtype, None)


class LDMModel(comfy.model_base.BaseModel):
    """A model that the host's samplers and those of this pack share; of any task.

    Attributes:
        conditioner: Makes what the network sees beside the noise or attends to, where that takes weights.
    """

    diffusion_model: HostUNet
    conditioner: SpatialRescaler | ClassEmbedder | None

    def __init__(self, name: str, checkpoint: Checkpoint, first_stage: FirstStage, precision: str) -> None:
        config = checkpoint.config
        host_config = LDMModelConfig(config, LDMLatentFormat(config, first_stage), FORMATS[precision])
        kinds, prediction_type = comfy.model_base.ModelType, config.schedule.prediction_type
        kind = kinds.V_PREDICTION if prediction_type == "v_prediction" else kinds.EPS
        # Any class with this call will do; the annotation that a type checker infers is only the host's default.
        super().__init__(host_config, kind, device=_CPU, unet_model=HostUNet)  # pyright: ignore[reportArgumentType]
        # FreeU and its like ask for it, and patch blocks then, which is refused by name.
        host_config.unet_config = host_config.unet_config | {"model_channels": config.unet.block_out_channels[0]}
        self.schedule = Schedule(config.schedule)
        self.model_sampling = make_model_sampling(prediction_type, self.schedule.with_signal.alphas_cumprod)
        self.diffusion_model.file = FileMark.of(checkpoint.unet_file)
        load_into(self.diffusion_model, checkpoint.unet, checkpoint.unet_file)
        set_precision(self.diffusion_model, precision)
        self.ldm_config = config
        self.ldm_source = {
            "checkpoint": name,
            "layout": checkpoint.layout,
            "weights": checkpoint.weights,
            "precision": precision,
            "vae_precision": next(name for name in FIRST_STAGE_PRECISIONS if FORMATS[name] == first_stage.dtype),
        }
        self.tf32 = precision == TF32
        self.conditioner = _conditioner(checkpoint)

    def apply_model(self, *args: Any, **kwargs: Any) -> Tensor:
        """As the host's. The network sets its kind of float32 itself, but not where another pack has compiled it."""
        with fp32(self.tf32):
            return super().apply_model(*args, **kwargs)

    def extra_conds(self, **kwargs: Any) -> dict[str, Any]:
        """What the network sees beside the noise or attends to; an unconditional model ignores any conditioning.

        Raises:
            InputError: A conditioning of another task, none, or one that does not fit the latents.
        """
        shape, device = kwargs["noise"].shape, kwargs["device"]
        if self.ldm_config.unet.cross_attention_dim is not None:
            context = context_of(self.ldm_config, kwargs, shape[0]).to(device, torch.float32)
            return {"c_crossattn": comfy.conds.CONDCrossAttn(context)}
        c = channels_beside(self.ldm_config, kwargs, shape)
        return {} if c is None else {"c_concat": comfy.conds.CONDNoiseShape(c.to(device))}

    def memory_required(self, input_shape: Sequence[int], *_: Any, **__: Any) -> int:
        """Memory of an evaluation of latents (N, C, H, W): what the host makes room for before a run."""
        return self.diffusion_model.evaluation_bytes(input_shape)

    def predict(self, x_t: Tensor, t: float, context: Tensor | None = None) -> Tensor:
        """One evaluation without the detour through the host's sigma space, which costs digits.

        Args:
            x_t: (N, C, H, W) float32 noisy latents on the model's device.
            t: timestep.
            context: (N, tokens, D) float32 likewise, of a network that attends to one.

        Returns:
            (N, C, H, W) predicted noise, or what else the schedule's `prediction_type` says.
        """
        with fp32(self.tf32):
            return self.diffusion_model(x_t, torch.full((x_t.shape[0],), float(t), device=x_t.device), context)


def _conditioner(checkpoint: Checkpoint) -> SpatialRescaler | ClassEmbedder | None:
    """Of a semantic synthesis or of classes, with copies of its few weights; else None."""
    config, layers = checkpoint.config.conditioning, host_layers(comfy.ops.disable_weight_init)
    if isinstance(config, SegmentationConfig):
        made = SpatialRescaler(config, layers, device="meta")
    elif isinstance(config, ClassConfig):
        made = ClassEmbedder(config, layers, device="meta")
    else:
        return None
    weights = {key: tensor.clone() for key, tensor in checkpoint.conditioner.items()}
    load_into(made, weights, checkpoint.conditioner_file or checkpoint.unet_file)
    return made


def make_model(
    name: str, checkpoint: Checkpoint, first_stage: FirstStage, precision: str, compiled: bool
) -> ModelPatcher:
    """The native MODEL.

    Args:
        name: Of the checkpoint as the user chose it.
        checkpoint: As read; the tensors of its UNet become the parameters.
        first_stage: First stage of the same checkpoint, which gives the preview its colours.
        precision: Of the UNet, one of `PRECISIONS`.
        compiled: See `UNet.compile_evaluation`.

    Raises:
        CheckpointError: Keys or shapes do not fit the configuration.
        ConfigError: Unknown precision.
    """
    device = comfy.model_management.get_torch_device()
    model = LDMModel(name, checkpoint, first_stage, resolve(precision, device))
    if compiled:
        model.diffusion_model.compile_evaluation()
    # The plain patcher on every host. The one of DynamicVRAM leaves the weights where they were read and hands layers a
    # copy at each call; the kernels and graphs that this network keeps belong to weights that stay in their place, and
    # saving a merged model needs all patches applied at once, which that one cannot do. The host moves these 1.1 GB out
    # for other models, and back, as it did before.
    patcher = ModelPatcher(
        model,
        load_device=device,
        offload_device=comfy.model_management.unet_offload_device(),
    )
    patcher.add_callback(CallbacksMP.ON_CLEANUP, _end_run)
    return patcher


def _end_run(patcher: ModelPatcher) -> None:
    """Free what a run needed on a card, after the host's samplers and ours alike."""
    ldm_model_of(patcher).diffusion_model.end_run()


def ldm_model_of(model: ModelPatcher, name: str = "model") -> LDMModel:
    """The `LDMModel` inside a MODEL.

    Args:
        model: Of the host, or what came by its wire.
        name: Of the input, for the message.

    Raises:
        InputError: The MODEL is of another family.
    """
    inner = getattr(model, "model", None)
    if not isinstance(model, ModelPatcher) or not isinstance(inner, LDMModel):
        found = type(model if inner is None else inner).__name__
        raise InputError(
            f"{name}: the MODEL is a {found}; this node works only with a MODEL from LDM Checkpoint Loader. "
            "Connect that loader, or use KSampler for this model."
        )
    return inner


def intermediate_device() -> torch.device:
    """Where results wait between nodes: the CPU unless the user chose otherwise."""
    return comfy.model_management.intermediate_device()


@contextmanager
def loaded(model: ModelPatcher, shape: torch.Size) -> Iterator[LDMModel]:
    """The model on its device with all patches applied, and enough free memory for a batch of this latent shape.

    Raises:
        InputError: As `ldm_model_of`.
        CheckpointError: The file of the weights was changed since it was loaded.
    """
    inner = ldm_model_of(model)
    inner.diffusion_model.file.check()
    check_patches(model.model_options.get("transformer_options", {}))
    comfy.model_management.load_models_gpu([model], memory_required=inner.memory_required(list(shape)))
    model.pre_run()
    try:
        yield inner
    finally:
        model.cleanup()


def saved_weights(model: ModelPatcher) -> dict[str, Tensor]:
    """The UNet's tensors with all patches of this MODEL (merges, for example) applied, under our names.

    Raises:
        InputError: As `ldm_model_of`.
        CheckpointError: The file of the weights was changed since it was loaded.
    """
    inner = ldm_model_of(model)
    inner.diffusion_model.file.check()
    comfy.model_management.load_models_gpu([model], force_patch_weights=True)
    # A compiled network has its kernels in another order in memory, which files do not know.
    return {key: tensor.detach().cpu().contiguous() for key, tensor in inner.diffusion_model.state_dict().items()}
