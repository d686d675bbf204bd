"""The first stage as a native VAE, so that every VAE node of the host works on it."""

from __future__ import annotations

from functools import partial
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

from ...ldm_backend.checkpoints.checkpoint import load_into
from ...ldm_backend.checkpoints.file_marks import FileMark
from ...ldm_backend.config.model import FirstStageConfig
from ...ldm_backend.errors import InputError, SamplingError
from ...ldm_backend.finite import FLOATS, all_finite, is_plain
from ...ldm_backend.kernels.fp32 import fp32
from ...ldm_backend.memory.estimates import Size, decoder_bytes, encoder_bytes, image_bytes, tiled_decode_bytes
from ...ldm_backend.memory.mapped import trim
from ...ldm_backend.networks.autoencoder import check_latent
from ...ldm_backend.networks.decoding import decoded, decoded_in_tiles, most_at_once
from ...ldm_backend.networks.first_stage import FirstStage, build_first_stage
from ...ldm_backend.networks.precision import set_first_stage_precision
from ...ldm_backend.networks.tiled_decode import MIN_TILE
from ...ldm_backend.views.images import as_channels, to_unit
from .layers import host_layers
from .memory import check_first_stage, make_chunks

# The smallest network that the host's constructor accepts. It only serves to have the host set every attribute of a
# VAE that it knows, in this version and later ones; the network itself is replaced at once.
_TINY: dict[str, Any] = {
    "ddconfig": {
        "double_z": True, "z_channels": 3, "resolution": 32, "in_channels": 3, "out_ch": 3, "ch": 32, "ch_mult": [1],
        "num_res_blocks": 1, "attn_resolutions": [], "dropout": 0.0,
    },
    "embed_dim": 3,
}  # fmt: skip


class LDMVAE(comfy.sd.VAE):
    """`comfy.sd.VAE` around a first stage. Encoding does not quantise, decoding does; takes and gives float32.

    Batches go through it in parts, as memory allows. Where an image alone does not fit, the host's class decodes tiles
    that show seams; this one decodes those of `tiled_decode`, which show the same picture.

    Args:
        first_stage: The networks.
        file: What their weights were read from, and may still be mapped from.

    Attributes:
        encoding: Decides how many pictures are encoded at once.
    """

    first_stage_model: FirstStage

    def __init__(self, first_stage: FirstStage, file: FileMark) -> None:
        tiny = comfy.ldm.models.autoencoder.AutoencoderKL(**_TINY).state_dict()
        super().__init__(sd=tiny, config={"params": _TINY}, dtype=torch.float32)
        self.first_stage_model = first_stage
        self.file = file
        self.patcher = ModelPatcher(
            first_stage, load_device=self.device, offload_device=comfy.model_management.vae_offload_device()
        )
        self.size = None  # the host measures the new network when it asks
        self.latent_channels = first_stage.config.z_channels
        self.output_channels = first_stage.config.out_channels  # of the host's tiles; an IMAGE has 3
        self.downscale_ratio = self.upscale_ratio = first_stage.downscale
        self.working_dtypes = [torch.float32]  # a code that flips at lower precision is a visible change
        # Of one image, as the host reckons: (N, C, H, W) of an image, (N, C, h, w) of a latent.
        itemsize = first_stage.dtype.itemsize
        self.memory_used_encode = lambda shape, dtype: encoder_bytes(
            first_stage.config, 1, shape[2], shape[3], itemsize
        )
        self.memory_used_decode = lambda shape, dtype: decoder_bytes(
            first_stage.config, 1, shape[2], shape[3], itemsize
        )
        # The quantiser reads the codebook's weight directly, which the host cannot stream; 221 MB always fit.
        self.disable_offload = True
        self.encoding, self._decoding = make_chunks("Encoder", first_stage), make_chunks("Decoder", first_stage)

    def decode(self, samples_in: Tensor, *_: Any, **__: Any) -> Tensor:
        """(N, C, h, w) latents to (N, H, W, 3) images in 0..1.

        Raises:
            InputError: Latent of another family, or one too large for memory.
            CheckpointError: The file of the weights was changed since it was loaded.
        """
        first_stage = self.first_stage_model
        _check_samples(samples_in, first_stage.config)
        self.check_decode(samples_in.shape)
        self.load(self.memory_used_decode(samples_in.shape, torch.float32))
        images = self._empty_images(samples_in.shape)
        for part, made in decoded(first_stage, samples_in, self.device, self._decoding):
            images[part] = to_unit(as_channels(made, 3))
            del made
        trim()  # what decoding took would else stay with the C library, by chance between what is kept
        return _checked(images)

    def encode(self, pixel_samples: Tensor) -> Tensor:
        """(N, H, W, 3) images in 0..1 to (N, C, h, w) latents.

        Raises:
            InputError: An image too large for memory.
            CheckpointError: As `decode`.
        """
        first_stage = self.first_stage_model
        pixels = self.vae_encode_crop_pixels(pixel_samples).movedim(-1, 1)
        images, _, height, width = pixels.shape

        self.check_encode(Size(images, height, width))
        self.load(self.memory_used_encode(pixels.shape, torch.float32))

        def encode(part: slice) -> Tensor:
            with fp32():
                return first_stage.encode(pixels[part].to(self.device, torch.float32) * 2.0 - 1.0).to(
                    self.output_device
                )

        def needed(images: int) -> int:
            return encoder_bytes(first_stage.config, images, height, width, first_stage.dtype.itemsize)

        return _checked(self.encoding.whole(encode, pixels.shape, self.device, needed, most_at_once(self.device)))

    def decode_tiled(self, samples: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Like `decode`, in overlapping tiles.

        Raises:
            InputError: Latent of another family.
            CheckpointError: As `decode`.
        """
        _check_samples(samples, self.first_stage_model.config)
        self.file.check()
        with fp32():
            return _checked(as_channels(super().decode_tiled(samples, *args, **kwargs), 3, dim=-1))

    def vae_encode_crop_pixels(self, pixels: Tensor) -> Tensor:
        """(N, H, W, 3) images cut to multiples of the downscale, with as many channels as the encoder takes."""
        _check_pixels(pixels)
        return as_channels(super().vae_encode_crop_pixels(pixels), self.first_stage_model.config.in_channels, dim=-1)

    def encode_tiled(self, pixel_samples: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Like `encode`, in the host's overlapping tiles.

        Raises:
            InputError: No image.
        """
        return _checked(super().encode_tiled(pixel_samples, *args, **kwargs))

    def decode_exactly_tiled(self, samples: Tensor, tile: int, node_id: str | None) -> Tensor:
        """Like `decode` in bounded memory; unlike `decode_tiled`, the host's, without a difference in the picture.

        Args:
            samples: (N, C, h, w) latents.
            tile: Side of a tile in latent cells; smaller ones are taken where memory runs out.
            node_id: Node that shows the progress.

        Returns:
            (N, H, W, 3) images in 0..1.

        Raises:
            InputError: Latent of another family, a tile that is too small, or an image too large for memory.
            CheckpointError: As `decode`.
        """
        first_stage = self.first_stage_model
        _check_samples(samples, first_stage.config)
        self.check_decode(samples.shape, tiled=True)
        itemsize = first_stage.dtype.itemsize
        self.load(tiled_decode_bytes(first_stage.config, samples.shape[2], samples.shape[3], tile, itemsize))
        bar = comfy.utils.ProgressBar(1, node_id=node_id)

        def report(index: int, done: int, total: int) -> None:
            comfy.model_management.throw_exception_if_processing_interrupted()
            bar.update_absolute(index * total + done, len(samples) * total)

        images = self._empty_images(samples.shape)
        for index, latent in enumerate(samples.split(1)):
            latent = latent.to(self.device, torch.float32)
            made = decoded_in_tiles(first_stage, latent, tile, self._decoding, partial(report, index))
            images[index] = to_unit(as_channels(made, 3))[0]
            del made
        trim()
        return _checked(images)

    def check_encode(self, size: Size) -> None:
        """Raise TooLargeError unless pictures of this size can be encoded."""
        first_stage = self.first_stage_model

        def work(height: int, width: int) -> int:
            return encoder_bytes(first_stage.config, 1, height, width, first_stage.dtype.itemsize)

        check_first_stage("Encoding", first_stage, self.device, size, self._latent_bytes, work)

    def check_decode(self, shape: torch.Size, tiled: bool = False) -> None:
        """Raise TooLargeError unless latents of this shape can be decoded; those not `tiled` at once or in tiles."""
        config, itemsize = self.first_stage_model.config, self.first_stage_model.dtype.itemsize

        def work(height: int, width: int) -> int:
            cells = (height // config.downscale, width // config.downscale)
            in_tiles = tiled_decode_bytes(config, *cells, MIN_TILE, itemsize)
            return in_tiles if tiled else min(in_tiles, decoder_bytes(config, 1, *cells, itemsize))

        size = Size(shape[0], shape[2] * config.downscale, shape[3] * config.downscale)
        check_first_stage("Decoding", self.first_stage_model, self.device, size, image_bytes, work)

    def _latent_bytes(self, images: int, height: int, width: int) -> int:
        """Of the latents of that many pictures."""
        config = self.first_stage_model.config
        return 4 * images * config.z_channels * (height // config.downscale) * (width // config.downscale)

    def _empty_images(self, shape: torch.Size) -> Tensor:
        """(N, H, W, 3) for the pictures of latents of this shape, where results wait."""
        config = self.first_stage_model.config
        size = (shape[0], shape[2] * config.downscale, shape[3] * config.downscale, 3)
        return torch.empty(size, dtype=torch.float32, device=self.output_device)

    def load(self, needed: int) -> None:
        """Bring the networks to their device, with that many bytes free there.

        Raises:
            CheckpointError: The file of the weights was changed since it was loaded.
        """
        self.file.check()
        comfy.model_management.load_models_gpu(
            [self.patcher], memory_required=needed, force_full_load=self.disable_offload
        )


def _check_samples(samples: Tensor, config: FirstStageConfig) -> None:
    """Raise InputError unless these are latents of this first stage: also for nodes of the host, which look at none."""
    if is_plain(samples):
        check_latent(samples, config)
    if not _hold_numbers(samples):
        raise InputError(
            "The latent is no plain tensor, or it is empty, or holds NaN or infinite numbers: there is no picture in "
            "it. Look at what the sampler or node before this one was given."
        )


def _check_pixels(pixels: Tensor) -> None:
    """Raise InputError unless this is an IMAGE, likewise."""
    if not _hold_numbers(pixels) or pixels.ndim != 4:
        raise InputError(
            "The image is no plain tensor (N, H, W, C), or it is empty, or holds NaN or infinite numbers. Connect LDM "
            "VQ Decode, Load Image, or another node that gives images."
        )


def _hold_numbers(value: Any) -> bool:
    return is_plain(value) and value.numel() > 0 and value.dtype in FLOATS and all_finite(value)


def _checked(made: Tensor) -> Tensor:
    """Raise SamplingError instead of giving pictures or latents of NaN, which would be black or white in the file."""
    if not all_finite(made):
        raise SamplingError(
            "The first stage gave NaN or infinite numbers: the latent or image is too large to compute with. Look at "
            "the node before this one, or load the checkpoint with vae_precision fp32."
        )
    return made


def make_first_stage(
    config: FirstStageConfig, state_dict: dict[str, Tensor], source: str | Path, precision: str
) -> FirstStage:
    """The first stage on the CPU, built from the host's layers.

    Args:
        config: Of the first stage.
        state_dict: Diffusers key names; its tensors become the parameters.
        source: File, for errors.
        precision: One of `FIRST_STAGE_PRECISIONS`.

    Raises:
        CheckpointError: Keys or shapes do not fit the configuration.
        ConfigError: Unknown precision.
    """
    first_stage = build_first_stage(config, host_layers(comfy.ops.disable_weight_init), "meta")
    load_into(first_stage, state_dict, source)
    set_first_stage_precision(first_stage, precision)
    return first_stage


def ldm_vae_of(vae: Any, name: str = "vae") -> LDMVAE:
    """`vae`, if it is ours.

    Args:
        vae: Of the host, or what came by its wire.
        name: Of the input, for the message.

    Raises:
        InputError: The VAE is of another family.
    """
    if not isinstance(vae, LDMVAE):
        inner = type(getattr(vae, "first_stage_model", vae)).__name__
        raise InputError(
            f"{name}: the VAE is a {inner}; this node works only with the VAE from LDM Checkpoint Loader. Connect that "
            "loader, or use VAE Decode for this VAE."
        )
    return vae


def loaded_first_stage(vae: LDMVAE, shape: torch.Size) -> FirstStage:
    """The networks of a VAE on `vae.device`, with enough free memory to decode a batch of this latent shape.

    Raises:
        CheckpointError: The file of the weights was changed since it was loaded.
    """
    vae.load(vae.memory_used_decode(shape, torch.float32))
    return vae.first_stage_model
