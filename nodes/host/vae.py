"""The first stage as a native VAE, so that every VAE node of the host works on it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import comfy.ldm.models.autoencoder
import comfy.model_management
import comfy.ops
import comfy.sd
import comfy.utils
import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor

from ...ldm_backend.autoencoder import check_latent
from ...ldm_backend.checkpoint import load_into
from ...ldm_backend.compvis import build_first_stage
from ...ldm_backend.config import FirstStageConfig
from ...ldm_backend.errors import InputError
from ...ldm_backend.kl import KLModel
from ...ldm_backend.tiled_decode import decode_tiled
from ...ldm_backend.vq import VQModel

# The smallest network that the host's constructor accepts. It only serves to have the host set every attribute of a
# VAE that it knows, in this version and later ones; the network itself is replaced at once.
_TINY: dict[str, Any] = {
    "ddconfig": {
        "double_z": True, "z_channels": 3, "resolution": 32, "in_channels": 3, "out_ch": 3, "ch": 32, "ch_mult": [1],
        "num_res_blocks": 1, "attn_resolutions": [], "dropout": 0.0,
    },
    "embed_dim": 3,
}  # fmt: skip

# Bytes of working memory for each image pixel at float32, as the host estimates them for its own autoencoder.
_ENCODE_BYTES = 1767 * 4
_DECODE_BYTES = 2178 * 4

_TILE_MARGINS = 8  # latent cells around a tile that are computed with it, both sides together, rounded up


class LDMVAE(comfy.sd.VAE):
    """`comfy.sd.VAE` around a first stage. Encoding does not quantise, decoding does; always float32."""

    first_stage_model: VQModel | KLModel

    def __init__(self, vq: VQModel | KLModel) -> None:
        tiny = comfy.ldm.models.autoencoder.AutoencoderKL(**_TINY).state_dict()
        super().__init__(sd=tiny, config={"params": _TINY}, dtype=torch.float32)
        self.first_stage_model = vq
        self.patcher = ModelPatcher(
            vq, load_device=self.device, offload_device=comfy.model_management.vae_offload_device()
        )
        self.size = None  # the host measures the new network when it asks
        self.latent_channels = vq.config.z_channels
        self.downscale_ratio = self.upscale_ratio = vq.downscale
        self.working_dtypes = [torch.float32]  # a code that flips at lower precision is a visible change
        self.memory_used_encode = lambda shape, dtype: _ENCODE_BYTES * shape[2] * shape[3]
        self.memory_used_decode = lambda shape, dtype: _DECODE_BYTES * shape[2] * shape[3] * vq.downscale**2
        # The quantiser reads the codebook's weight directly, which the host cannot stream; 221 MB always fit.
        self.disable_offload = True

    def decode(self, samples_in: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """(N, C, h, w) latents to (N, H, W, 3) images in 0..1.

        Raises: InputError: latent of another family.
        """
        check_latent(samples_in, self.first_stage_model.config)
        return super().decode(samples_in, *args, **kwargs)

    def decode_tiled(self, samples: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Like `decode`, in overlapping tiles.

        Raises: InputError: latent of another family.
        """
        check_latent(samples, self.first_stage_model.config)
        return super().decode_tiled(samples, *args, **kwargs)

    def decode_exactly_tiled(self, samples: Tensor, tile: int, node_id: str | None) -> Tensor:
        """Like `decode` in bounded memory; unlike `decode_tiled`, the host's, without a difference in the picture.

        Args:
            samples: (N, C, h, w) latents.
            tile: side of a tile in latent cells.
            node_id: node that shows the progress.
        Returns: (N, H, W, 3) images in 0..1.
        Raises: InputError: latent of another family, or a tile that is too small.
        """
        first_stage = self.first_stage_model
        check_latent(samples, first_stage.config)
        cells = samples.shape[2] * samples.shape[3]
        pixels = min(cells, (tile + _TILE_MARGINS) ** 2) * first_stage.downscale**2
        tokens = 4 * 4 * first_stage.config.block_out_channels[-1] * cells  # keys, values and what makes them; float32
        comfy.model_management.load_models_gpu(
            [self.patcher], memory_required=_DECODE_BYTES * pixels + tokens, force_full_load=self.disable_offload
        )
        bar = comfy.utils.ProgressBar(1, node_id=node_id)

        def report(done: int, total: int) -> None:
            comfy.model_management.throw_exception_if_processing_interrupted()
            bar.update_absolute(done, total)

        images = decode_tiled(first_stage, samples.to(self.device, self.vae_dtype), tile, report)
        return self.process_output(images.to(self.output_device)).movedim(1, -1)


def make_vq(config: FirstStageConfig, state_dict: dict[str, Tensor], source: str | Path) -> VQModel | KLModel:
    """The first stage on the CPU, built from the host's layers.

    Args:
        config: of the first stage.
        state_dict: diffusers key names; its tensors become the parameters.
        source: file, for errors.
    Raises: CheckpointError: keys or shapes do not fit the configuration.
    """
    vq = build_first_stage(config, comfy.ops.disable_weight_init, "meta")
    load_into(vq, state_dict, source)
    return vq


def ldm_vae_of(vae: Any) -> LDMVAE:
    """`vae`, if it is ours.

    Raises: InputError: the VAE is of another family.
    """
    if not isinstance(vae, LDMVAE):
        inner = type(getattr(vae, "first_stage_model", vae)).__name__
        raise InputError(
            f"The VAE is a {inner}; this node works only with the VAE from LDM Checkpoint Loader. Connect that loader, "
            "or use VAE Decode for this VAE."
        )
    return vae


def loaded_first_stage(vae: Any, shape: torch.Size) -> VQModel | KLModel:
    """The networks of a VAE of ours on `vae.device`, with enough free memory to decode a batch of this latent shape.

    Raises: InputError: as `ldm_vae_of`.
    """
    ours = ldm_vae_of(vae)
    needed = ours.memory_used_decode(shape, torch.float32)
    comfy.model_management.load_models_gpu([ours.patcher], memory_required=needed, force_full_load=True)
    return ours.first_stage_model
