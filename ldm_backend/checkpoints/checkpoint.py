"""From a path to checked tensors under our names: which format it is, which weights, which configuration.

The format is found by looking at the keys, never at a name. Every tensor that the model needs is taken exactly once;
missing, superfluous and misshapen ones end in an error that names them.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from ..config.conditioning import TextConfig
from ..config.model import LDMConfig
from ..errors import CheckpointError, ConfigError, check_choice, first_names, printable, short_repr
from ..finite import FLOATS
from ..locations import (
    CONDITIONER_FOLDER,
    EMA_FOLDER,
    STAGE_FOLDERS,
    TEXT_FOLDER,
    find_single_file,
    find_weights,
    is_parts_folder,
)
from ..texts.vocabulary import Vocabulary
from .compvis import from_compvis, has_ema, is_compvis, refuse_stable_diffusion, scale_factor_of
from .conditioner import (
    check_conditioner,
    conditioner_from_compvis,
    conditioner_shapes,
    text_encoder_from_diffusers,
)
from .configuration import FoundConfig, Given, check_folder, file_config, folder_config, given_config
from .key_maps import current_name
from .shards import read_weights, weight_files
from .single_file import CONDITIONER_PREFIX, refuse_incomplete, refuse_rest, split_parts
from .tensor_files import StateDict, TensorFile, copies_weights, under
from .tokenizer_folder import folder_vocabulary, metadata_vocabulary

logger = logging.getLogger("comfyui_ldm")

WEIGHTS = ("auto", "ema", "raw")

_LAYOUT = (
    "a folder with unet/, vqvae/ and scheduler/, each with its configuration, as on the Hugging Face hub, or a single "
    "checkpoint file"
)


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint as found: configuration and float tensors under our names, mapped from disk where possible.

    Attributes:
        path: What was asked for.
        unet_file: Where the UNet's tensors come from.
        first_stage_file: Where the first stage's tensors come from; the same for a single file.
        layout: "huggingface", "compvis" or "single-file".
        weights: "ema" or "raw" for a file that holds both or says which it holds, else "only".
        conditioner: Of what makes the conditioning, where that has weights; see `conditioner_shapes`.
        conditioner_file: Where these come from, if not from one of the two others.
        vocabulary: Of a model that draws from texts.
    """

    path: Path
    unet_file: Path
    first_stage_file: Path
    layout: str
    weights: str
    config: LDMConfig
    unet: StateDict
    first_stage: StateDict
    conditioner: StateDict = field(default_factory=dict)
    conditioner_file: Path | None = None
    vocabulary: Vocabulary | None = None

    @property
    def sources(self) -> tuple[Path, ...]:
        """The files, or indexes of files, that the networks come from, each once."""
        found = (self.unet_file, self.first_stage_file, self.conditioner_file)
        return tuple(dict.fromkeys(file for file in found if file is not None))

    @property
    def files(self) -> tuple[Path, ...]:
        """All weight files, each once."""
        return tuple(dict.fromkeys(file for source in self.sources for file in weight_files(source)))


def read_checkpoint(
    path: str | Path,
    weights: str = "auto",
    config: Given = None,
    scale_factor: float | None = None,
) -> Checkpoint:
    """Read a checkpoint of any known layout.

    Args:
        path: Hugging Face folder; CompVis checkpoint, pickled or safetensors; our single file; or a folder that holds
            exactly one such file, directly or in `checkpoints`, with its YAML if it needs one.
        weights: "ema" or "raw" where the file holds both; "auto" takes EMA where present.
        config: In the place of what lies in the checkpoint or beside it: a configuration, the name of a preset, or the
            path of a CompVis YAML.
        scale_factor: Replaces that of the configuration, for a model trained with another.

    Raises:
        CheckpointError: Missing, damaged, refused or unfitting files.
        ConfigError: Not this family, or a configuration is needed.
    """
    check_choice("weights", weights, WEIGHTS, CheckpointError)
    path = Path(path)
    asked = None if scale_factor is None else float(scale_factor)
    single = find_single_file(path) if path.is_dir() and not is_parts_folder(path) else None
    if single or path.is_file():
        checkpoint = _read_file(single or path, weights, config, asked)
    else:
        checkpoint = _read_folder(path, weights, config, asked)
    logger.info("%s: layout %s, weights %s", path, checkpoint.layout, checkpoint.weights)
    return checkpoint


def load_into(module: nn.Module, state_dict: Mapping[str, Tensor], source: str | Path) -> None:
    """Give `module` the tensors of `state_dict` as float32; keys and shapes must fit.

    Those that are float32 are not copied, unless `copies_weights`.

    Args:
        module: May be on the meta device; it is put into evaluation mode, without gradients.
        state_dict: Every parameter and buffer of `module`, and nothing else; on the CPU.
        source: Named in errors.

    Raises:
        CheckpointError: Missing or unexpected keys, other shapes, or values that are not finite numbers.
    """
    copy = copies_weights()
    expected = {key: tuple(tensor.shape) for key, tensor in module.state_dict().items()}
    found = {key: tuple(tensor.shape) for key, tensor in state_dict.items()}
    problems = []
    if missing := expected.keys() - found.keys():
        problems.append(f"missing keys: {first_names(missing)}")
    if unexpected := found.keys() - expected.keys():
        problems.append(f"unexpected keys: {first_names(unexpected)}")
    if shapes := [key for key in expected.keys() & found.keys() if expected[key] != found[key]]:
        first = min(shapes)
        problems.append(f"other shapes: {first_names(shapes)}; {first} is {found[first]}, expected {expected[first]}")
    if problems:
        raise CheckpointError(
            f"{source}: the weights do not fit the configuration ({'; '.join(problems)}). {_way_out(expected, found)}"
        )
    module.load_state_dict(
        {key: as_float32(tensor, key, source, copy) for key, tensor in state_dict.items()},
        assign=True,
    )
    module.eval().requires_grad_(False)


def _way_out(expected: Mapping[str, object], found: Mapping[str, object]) -> str:
    """What to do about weights that do not fit."""
    some = min(expected)
    prefixes = {key.removesuffix(some) for key in found if key.endswith(f".{some}")}
    for prefix in prefixes:
        if all(key.startswith(prefix) for key in found):
            return f"All names begin with {printable(prefix)}, which is none of the network's: save them without it."
    if not expected.keys() - found.keys() and all(expected[key] == found[key] for key in expected):
        return (
            "A tensor that is not understood may change the picture: take the configuration that the model was trained "
            "with; if nothing needs these tensors, remove them from the file."
        )
    return "Take the configuration and the weights from the same model."


def as_float32(tensor: Tensor, key: str, source: str | Path, copy: bool = False) -> Tensor:
    """The numbers of a tensor on the CPU.

    Args:
        tensor: On the CPU.
        key: Its name, for errors.
        source: Its file, for errors.
        copy: Also where they are float32 already.

    Raises:
        CheckpointError: Another dtype, or values that are not finite numbers.
    """
    if tensor.dtype not in FLOATS:
        raise CheckpointError(
            f"{source}: {key} is {tensor.dtype}; expected one of {', '.join(map(str, FLOATS))}. Save the weights as "
            "float32."
        )
    tensor = tensor.to(torch.float32, copy=copy)
    values = tensor.numpy()
    # Both are NaN if any element is. No memory, unlike isfinite(), and numpy's one thread does not wait for busy cores:
    # 0.08 s for the 1.3 GB of the real model, where torch's sum took up to 2 s beside a program that used all cores.
    if not (np.isfinite(values.min()) and np.isfinite(values.max())):
        raise CheckpointError(f"{source}: {key} holds NaN or infinite values. The file is damaged: download it again.")
    return tensor


def check_readable(written: Path) -> None:
    """Hold what was just written against what reads it, before it gets its name: nobody shall find out later.

    Args:
        written: A file or folder that has no name of its own yet.

    Raises:
        CheckpointError: It would be refused.
    """
    try:
        checkpoint = read_checkpoint(written)
        for part in (checkpoint.unet, checkpoint.first_stage, checkpoint.conditioner):
            for key, tensor in part.items():
                as_float32(tensor, key, written)
    except (CheckpointError, ConfigError) as error:
        reason = str(error).replace(str(written), "the new file")
        raise CheckpointError(
            f"Nothing was saved: what was about to be written could not be loaded again. {reason}"
        ) from error


def _read_folder(root: Path, weights: str, config: Given, scale_factor: float | None) -> Checkpoint:
    """The Hugging Face layout: three parts, each with its configuration."""
    if not root.is_dir():
        raise CheckpointError(f"{root}: nothing is there; expected {_LAYOUT}. Check the path, or download the model.")
    averaged = (root / EMA_FOLDER).is_dir()
    if weights == "ema" and not averaged:
        raise CheckpointError(f"{root}: a Hugging Face folder holds one set of weights; take weights 'auto' or 'raw'.")
    unet = EMA_FOLDER if averaged and weights != "raw" else "unet"
    stage = next((name for name in STAGE_FOLDERS if (root / name).is_dir()), STAGE_FOLDERS[0])
    if config is None:
        resolved = folder_config(root, unet, stage, scale_factor)
    else:
        resolved = given_config(config, scale_factor).scaled(root, None, scale_factor)
        check_folder(root, resolved)
    unet_file, stage_file = (find_weights(root / part) for part in (unet, stage))
    tensors, stage_tensors = (with_current_names(read_weights(file)) for file in (unet_file, stage_file))
    chosen = ("ema" if unet == EMA_FOLDER else "raw") if averaged else "only"
    file, conditioner = None, {}
    if isinstance(resolved.conditioning, TextConfig):
        file = find_weights(root / TEXT_FOLDER)
        conditioner = text_encoder_from_diffusers(read_weights(file))
    elif conditioner_shapes(resolved):
        file = find_weights(root / CONDITIONER_FOLDER)
        conditioner = read_weights(file).tensors
    check_conditioner(resolved, conditioner, file or root)
    parts, words = (tensors, stage_tensors, conditioner), folder_vocabulary(root, resolved)
    return Checkpoint(root, unet_file, stage_file, "huggingface", chosen, resolved, *parts, file, words)


def with_current_names(file: TensorFile) -> StateDict:
    """The tensors under today's names.

    Raises:
        CheckpointError: A tensor is there under its old and its new name.
    """
    tensors: StateDict = {}
    for key, tensor in file.tensors.items():
        name = current_name(key)
        if name in tensors:
            where = f"{file.path}: {printable(name)}"
            raise CheckpointError(f"{where} is there twice, under its old and its new name. Remove one.")
        tensors[name] = tensor
    return tensors


def _read_file(path: Path, weights: str, config: Given, scale_factor: float | None) -> Checkpoint:
    """One file with the UNet and the first stage."""
    file = read_weights(path, weights)
    if is_compvis(file.tensors):
        refuse_stable_diffusion(file)
        found = file_config(file, config, scale_factor)
        chosen = _chosen(file, weights, found)
        resolved = found.scaled(path, scale_factor_of(file), scale_factor)
        unet, first_stage = from_compvis(file, resolved, "raw" if file.stored else chosen)
        conditioner = conditioner_from_compvis(file, resolved)
        words = metadata_vocabulary({}, resolved, str(path))
        parts = (unet, first_stage, conditioner)
        return Checkpoint(path, path, path, "compvis", chosen, resolved, *parts, vocabulary=words)
    unet, first_stage = split_parts(with_current_names(file))
    if not unet or not first_stage:
        refuse_incomplete(file)
    refuse_rest(file.tensors, path)
    stored = file.stored or file.metadata.get("weights", "only")
    if stored not in ("ema", "raw", "only"):
        raise CheckpointError(
            f"{path}: its metadata says weights {short_repr(stored)}; expected ema, raw or only. Convert it again."
        )
    if weights != "auto" and stored not in (weights, "only"):
        raise CheckpointError(f"{path}: holds the {stored} weights, asked for were {weights}. Take 'auto'.")
    if weights == "ema" and stored == "only":
        raise CheckpointError(
            f"{path}: holds one set of weights and does not say that it is EMA; take weights 'auto' or 'raw'."
        )
    resolved = file_config(file, config, scale_factor).scaled(path, None, scale_factor)
    conditioner = under(CONDITIONER_PREFIX, file.tensors)
    check_conditioner(resolved, conditioner, path)
    words = metadata_vocabulary(file.metadata, resolved, str(path))
    parts = (unet, first_stage, conditioner)
    return Checkpoint(path, path, path, "single-file", stored, resolved, *parts, vocabulary=words)


def _chosen(file: TensorFile, weights: str, found: FoundConfig) -> str:
    """Which of a CompVis checkpoint's weights are taken, "ema" or "raw"."""
    if file.stored:
        return file.stored
    averaged = has_ema(file.tensors)
    if weights != "auto":
        return weights
    if averaged and found.use_ema is False:
        raise CheckpointError(
            f"{file.path}: it holds EMA weights (model_ema.*), and use_ema is False in {found.source}, by which they "
            "are not meant to be used. Say which to take: weights 'ema' or 'raw'."
        )
    return "ema" if averaged else "raw"
