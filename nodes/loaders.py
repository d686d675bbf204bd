"""From a checkpoint to native MODEL, VAE and CLIP."""

# The host calls `execute` with a node's own inputs by name, so each signature differs from the base class's.
# pyright: reportIncompatibleMethodOverride=false

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..ldm_backend.checkpoints.checkpoint import WEIGHTS
from ..ldm_backend.config.presets import PRESETS
from ..ldm_backend.errors import ConfigError, LDMError, check_choice, short_repr
from ..ldm_backend.networks.precision import FIRST_STAGE_PRECISIONS, PRECISIONS
from .host.folders import checkpoint_fingerprint, checkpoint_names
from .host.loading import Choice, load_checkpoint
from .host.schema import make_schema
from .shared.wires import checked

AUTO = "auto"


class LDMCheckpointLoader(io.ComfyNode):
    """Reads a checkpoint of any layout and hands out its networks."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """What the host shows."""
        names = checkpoint_names()
        return make_schema(
            node_id="LDMCheckpointLoader",
            display_name="LDM Checkpoint Loader",
            description=(
                "Loads a latent diffusion model: an unconditional one such as CompVis/ldm-celebahq-256, or one for "
                "super-resolution, inpainting, semantic synthesis, classes or texts. Put its file, or the folder that "
                "holds unet, vqvae and scheduler, into ComfyUI/models/ldm. Four small demo models come with the pack: "
                "portraits-128, upscaler-4x, inpainter-128 and text-portraits-128."
            ),
            search_aliases=["latent diffusion", "CelebA-HQ", "unconditional", "load checkpoint"],
            inputs=[
                io.Combo.Input(
                    "checkpoint",
                    options=names,
                    default=next(iter(names), ""),  # what a new node holds; the editor's search shows it
                    tooltip=(
                        "Folder of the model, below ComfyUI/models/ldm. After copying a new one there, press R to "
                        "refresh this list."
                    ),
                ),
                io.Combo.Input(
                    "weights",
                    options=list(WEIGHTS),
                    default=WEIGHTS[0],
                    optional=True,
                    tooltip=(
                        "Original checkpoints hold two sets. ema: averaged over training, as published samples use. "
                        "raw: the last step of training. auto: ema where present."
                    ),
                ),
                io.Combo.Input(
                    "config",
                    options=[AUTO, *PRESETS],
                    default=AUTO,
                    optional=True,
                    tooltip=(
                        "Which model a file is that comes without configuration, such as an original model.ckpt. auto: "
                        "read the configuration in the file or beside it."
                    ),
                ),
                io.Combo.Input(
                    "precision",
                    options=list(PRECISIONS),
                    default=PRECISIONS[0],
                    optional=True,
                    tooltip=(
                        "Number format of the network that removes noise. fp32: exact. bf16: faster on newer CPUs too, "
                        "with small changes in the picture. fp16: for graphics cards. auto: fp16 on a graphics card, "
                        "fp32 on the CPU. tf32: fp32 whose products NVIDIA cards may round, faster there, with small "
                        "changes; elsewhere fp32."
                    ),
                ),
                io.Boolean.Input(
                    "compile",
                    default=False,
                    optional=True,
                    tooltip=(
                        "Spend time at the first step on speed in all others: torch.compile translates the network, "
                        "minutes the first time, seconds in later sessions. For graphics cards, and for bf16. On the "
                        "CPU in fp32 the network is as fast as it can be without, and this changes nothing."
                    ),
                ),
                io.Combo.Input(
                    "vae_precision",
                    options=list(FIRST_STAGE_PRECISIONS),
                    default=FIRST_STAGE_PRECISIONS[0],
                    optional=True,
                    tooltip=(
                        "Number format of the network that turns latents into images and back. fp32: exact. bf16: half "
                        "the memory, and meant for graphics cards, with small changes in the picture; the codes that "
                        "a latent is snapped to stay the same."
                    ),
                ),
            ],
            advanced=("weights", "config", "precision", "compile", "vae_precision"),
            outputs=[
                io.Model.Output(
                    display_name="MODEL",
                    tooltip="The network that removes noise. For LDM DDIM Sampler, KSampler and other samplers.",
                ),
                io.Vae.Output(
                    display_name="VAE",
                    tooltip=(
                        "The network that turns latents into images and back. For LDM VQ Decode, VAE Decode and VAE "
                        "Encode."
                    ),
                ),
                io.Clip.Output(
                    display_name="CLIP",
                    tooltip="Only of models that draw texts: what takes in a prompt. For CLIP Text Encode.",
                ),
            ],
        )

    @classmethod
    def validate_inputs(cls, checkpoint: Any) -> bool:
        """Let every name pass, so that `execute` says on every host where it looked and where checkpoints belong.

        Hosts from 0.8 check choices themselves unless a node names them here, and say only that this is none.
        """
        return True

    @classmethod
    def fingerprint_inputs(cls, checkpoint: str, **_: Any) -> object:
        """Load again when the files have changed."""
        try:
            return checkpoint_fingerprint(checkpoint)
        except LDMError:
            return checkpoint  # the same name fails in execute, where the message reaches the user

    @classmethod
    @checked
    def execute(
        cls,
        checkpoint: str,
        weights: str = WEIGHTS[0],
        config: str = AUTO,
        precision: str = PRECISIONS[0],
        compile: bool = False,  # noqa: A002 - the name that users see
        vae_precision: str = FIRST_STAGE_PRECISIONS[0],
    ) -> io.NodeOutput:
        """Read, check and wrap the networks.

        Raises:
            LDMError: Unknown name, or files that are missing, damaged, refused or of another family.
        """
        check_choice("vae_precision", vae_precision, FIRST_STAGE_PRECISIONS, ConfigError)
        if config not in (AUTO, *PRESETS):
            # Only names: a path from a workflow could be any file of this machine.
            raise ConfigError(f"config is {short_repr(config)}; choose {AUTO} or one of {', '.join(PRESETS)}.")
        preset = None if config == AUTO else config
        choice = Choice(checkpoint, weights, preset, precision, compile, vae_precision)
        return io.NodeOutput(*load_checkpoint(choice))
