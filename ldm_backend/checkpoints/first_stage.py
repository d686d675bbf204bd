"""The first stage alone: VQ-f4, KL-f8 and their like, for encoding and decoding without a diffusion model.

All that a first stage needs is visible in its tensors, so a file without configuration is enough.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from ..config.model import FirstStageConfig, KLConfig, LDMConfig, UNetConfig, VQConfig
from ..config.strict_json import build
from ..errors import CheckpointError, first_names
from ..networks import skip_init
from ..networks.kl import KLModel
from ..networks.vq import VQModel
from .checkpoint import find_weights, load_into, read_json, with_current_names
from .compvis import FIRST_STAGE, build_first_stage, first_stage_from_compvis
from .single_file import FIRST_STAGE_PREFIX, config_from_metadata
from .tensor_files import StateDict, TensorFile, read_tensor_file

# Tensors whose sides tell the configuration, beside those of the encoder's blocks, and their numbers of dimensions.
_INFERRED_FROM = {
    "encoder.conv_in.weight": 4,
    "decoder.conv_in.weight": 4,
    "decoder.conv_out.weight": 4,
    "quantize.embedding.weight": 2,
}


def load_first_stage(path: str | Path, device: str | torch.device = "cpu") -> VQModel | KLModel:
    """Load a first stage.

    Args:
        path: A first stage alone (CompVis or diffusers keys), any whole checkpoint, or a Hugging Face folder.
        device: Where it goes.

    Raises:
        CheckpointError: Missing, damaged, refused or unfitting files.
        ConfigError: Not this family.
    """
    config, tensors = read_first_stage(path)
    module = build_first_stage(config, skip_init, device="meta")
    load_into(module, tensors, f"{path} (first stage)")
    return module.to(torch.device(device))


def read_first_stage(path: str | Path) -> tuple[FirstStageConfig, StateDict]:
    """Configuration and tensors of a first stage under our names; see `load_first_stage`."""
    path = Path(path)
    for part in ("vqvae", "vae"):
        if (path / part / "config.json").is_file():
            path = path / part
    if (path / "config.json").is_file():
        data = read_json(path / "config.json")
        stage_class = KLConfig if data.get("_class_name") == "AutoencoderKL" else VQConfig
        tensors = with_current_names(read_tensor_file(find_weights(path)))
        return stage_class.from_dict(data, str(path / "config.json")), tensors
    file = read_tensor_file(path)
    for prefix in (FIRST_STAGE, FIRST_STAGE_PREFIX):
        inner = {key.removeprefix(prefix): tensor for key, tensor in file.tensors.items() if key.startswith(prefix)}
        if inner:
            own = config_from_metadata(file.metadata, str(path))
            return _from_tensors(TensorFile(path, inner), own.vq if own else None)
    return _from_tensors(file, None)


def _from_tensors(file: TensorFile, config: FirstStageConfig | None) -> tuple[FirstStageConfig, StateDict]:
    tensors = {key: tensor for key, tensor in file.tensors.items() if not key.startswith(("loss.", "model_ema."))}
    if "decoder.conv_in.weight" not in tensors or "encoder.conv_in.weight" not in tensors:
        raise CheckpointError(
            f"{file.path}: holds no first stage; expected encoder.*, decoder.* and post_quant_conv.*."
        )
    file = TensorFile(file.path, tensors)
    if "encoder.mid.block_1.conv1.weight" in tensors:
        config = config or infer_first_stage_config(
            tensors, r"encoder\.down\.(\d{1,3})\.block\.(\d{1,3})\.conv1\.weight", file.path
        )
        whole = LDMConfig(
            UNetConfig(in_channels=config.z_channels, out_channels=config.z_channels),
            config,
        )
        return config, first_stage_from_compvis(file, whole)
    pattern = r"encoder\.down_blocks\.(\d{1,3})\.resnets\.(\d{1,3})\.conv1\.weight"
    return config or infer_first_stage_config(tensors, pattern, file.path), with_current_names(file)


def infer_first_stage_config(tensors: Mapping[str, Tensor], resnet: str, source: Path) -> FirstStageConfig:
    """Read widths, levels, channels and codebook off the shapes.

    Args:
        tensors: Of a first stage.
        resnet: Pattern of the first convolution of an encoder block, with groups for level and block.
        source: Named in errors.

    Raises:
        CheckpointError: No blocks found.
        ConfigError: A network outside the family.
    """
    matches = {key: match for key in tensors if (match := re.fullmatch(resnet, key))}
    for key, dimensions in (dict.fromkeys(matches, 4) | _INFERRED_FROM).items():
        if key in tensors and tensors[key].ndim != dimensions:
            shape = tuple(tensors[key].shape)
            raise CheckpointError(f"{source}: {first_names([key])} is {shape}; expected {dimensions} dimensions.")
    found = {(int(match[1]), int(match[2])): tensors[key].shape[0] for key, match in matches.items()}
    levels = {level for level, block in found if block == 0}
    if not found or levels != set(range(1 + max(level for level, _ in found))):
        raise CheckpointError(f"{source}: the encoder's blocks are incomplete; the file is cut short.")
    shape = {
        "in_channels": tensors["encoder.conv_in.weight"].shape[1],
        "out_channels": tensors["decoder.conv_out.weight"].shape[0] if "decoder.conv_out.weight" in tensors else 3,
        "latent_channels": tensors["decoder.conv_in.weight"].shape[1],
        "block_out_channels": tuple(found[level, 0] for level in sorted(levels)),
        "layers_per_block": sum(level == 0 for level, _ in found),
    }
    codebook = tensors.get("quantize.embedding.weight")
    if codebook is None:
        return build(KLConfig, str(source), shape)
    codes = {"num_vq_embeddings": codebook.shape[0], "vq_embed_dim": codebook.shape[1]}
    return build(VQConfig, str(source), shape | codes)
