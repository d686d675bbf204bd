"""Looking into a loaded checkpoint, and saving it as a single file."""

# The host calls `execute` with a node's own inputs by name, so each signature differs from the base class's.
# pyright: reportIncompatibleMethodOverride=false

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from comfy_api.latest import io, ui
from torch import Tensor, nn

from ..ldm_backend.checkpoints.checkpoint import check_readable
from ..ldm_backend.checkpoints.single_file import DTYPES, config_to_json, fill_single_file
from ..ldm_backend.config.conditioning import TASKS, TEXT_CONDITIONAL
from ..ldm_backend.errors import InputError
from .host.conditioners.text import saved_text_encoder
from .host.loading import check_belongs
from .host.model import ModelPatcher, ldm_model_of, saved_weights
from .host.outputs import new_outputs, write_new
from .host.schema import make_schema
from .host.vae import LDMVAE
from .shared.inputs import model_input
from .shared.metadata import MOST_IN_HEADER, workflow_texts
from .shared.wires import checked


class LDMModelInfo(io.ComfyNode):
    """What a MODEL is, as text."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """What the host shows."""
        return make_schema(
            node_id="LDMModelInfo",
            display_name="LDM Model Info",
            description=(
                "Tells what a loaded model is: what it is for, layout of its file, which weights were taken (EMA or "
                "raw), sizes, noise schedule, number of parameters."
            ),
            search_aliases=["inspect", "parameters", "config"],
            inputs=[model_input(*TASKS)],
            outputs=[io.String.Output(display_name="STRING", tooltip="The description, as JSON text.")],
            is_output_node=True,
        )

    @classmethod
    @checked
    def execute(cls, model: ModelPatcher) -> io.NodeOutput:
        """Describe the model.

        Raises:
            InputError: A model of another family.
        """
        inner = ldm_model_of(model)
        parameters = sum(p.numel() for p in inner.diffusion_model.parameters())
        config = inner.ldm_config
        info = inner.ldm_source | {"task": config.task, "unet_parameters": parameters} | config_to_json(config)
        text = json.dumps(info, indent=2)
        return io.NodeOutput(text, ui=ui.PreviewText(text))


class LDMCheckpointSave(io.ComfyNode):
    """Writes MODEL and VAE as one safetensors file that needs nothing beside it."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """What the host shows."""
        return make_schema(
            node_id="LDMCheckpointSave",
            display_name="LDM Checkpoint Save",
            description=(
                "Saves a model and its VAE as a single safetensors file with the configuration inside, into the output "
                "folder. Move the file to models/ldm to load it again. Merges and other changes of the MODEL are kept."
            ),
            search_aliases=["convert", "safetensors", "save model"],
            inputs=[
                io.Model.Input(
                    "model", tooltip="The MODEL to save, from LDM Checkpoint Loader or a node that changed it."
                ),
                io.Vae.Input("vae", tooltip="The VAE that belongs to it, from the same loader."),
                io.String.Input(
                    "filename_prefix",
                    default="checkpoints/ldm",
                    tooltip="Name of the file below the output folder; a number and .safetensors are added.",
                ),
                io.Combo.Input(
                    "dtype",
                    options=list(DTYPES),
                    default="fp32",
                    tooltip="Precision on disk. fp32 keeps every bit; fp16 and bf16 halve the file and round.",
                ),
                io.Clip.Input(
                    "clip", optional=True, tooltip="Only for models of texts, which need it: CLIP from the same loader."
                ),
            ],
            outputs=[],
            hidden=[io.Hidden.prompt, io.Hidden.extra_pnginfo],
            is_output_node=True,
        )

    @classmethod
    @checked
    def execute(
        cls, model: ModelPatcher, vae: LDMVAE, filename_prefix: str, dtype: str, clip: Any = None
    ) -> io.NodeOutput:
        """Write the file, whole or not at all.

        Raises:
            LDMError: A model or VAE of another family, parts of different models or one missing, a folder that cannot
                be written, or weights that could not be loaded again.
        """
        inner = ldm_model_of(model)
        check_belongs(vae, inner.ldm_config)
        needed = inner.ldm_config.task == TEXT_CONDITIONAL
        if needed != (clip is not None):
            found, wanted = ("open", "connected") if needed else ("connected", "open")
            raise InputError(
                f"clip is {found}, and the MODEL is {inner.ldm_config.task}; expected it {wanted}. Connect the CLIP of "
                "the same LDM Checkpoint Loader where the MODEL is one of texts, and nothing else."
            )
        vae.file.check()
        unet = saved_weights(model)
        decoder = _on_cpu(vae.first_stage_model)
        conditioner = None if inner.conditioner is None else _on_cpu(inner.conditioner)
        texts = {"weights": inner.ldm_source["weights"], **_metadata(cls.hidden)}
        if clip is not None:
            conditioner, words = saved_text_encoder(clip, inner.ldm_config)
            texts |= words

        def write(file: Path) -> None:
            fill_single_file(file, inner.ldm_config, unet, decoder, dtype, texts, conditioner)
            check_readable(file)

        output = write_new(new_outputs(filename_prefix, ".safetensors"), write)
        name = f"{output.subfolder}/{output.path.name}".lstrip("/")
        # Clients without a browser fetch what is listed as a file; editors show the text.
        file = {"filename": output.path.name, "subfolder": output.subfolder, "type": "output"}
        return io.NodeOutput(ui={"text": (name,), "checkpoints": [file]})


def _on_cpu(module: nn.Module) -> dict[str, Tensor]:
    return {key: tensor.cpu() for key, tensor in module.state_dict().items()}


def _metadata(hidden: Any) -> dict[str, str]:
    """Prompt and workflow under the names by which ComfyUI finds them in a file, all else below a name of its own.

    The loader reads names of this pack from the same place, today's and later ones.
    """
    texts = workflow_texts(hidden, "LDM Checkpoint Save", MOST_IN_HEADER)
    return {name if name in ("prompt", "workflow") else f"extra_pnginfo.{name}": text for name, text in texts.items()}
