"""Where the files of a checkpoint are: by their names alone, and never by a guess between two.

Imports only errors, so that programs which only move files need no torch.
"""

from __future__ import annotations

import re
from pathlib import Path

from .errors import CheckpointError, ConfigError, first_names

# Weights of one part of the Hugging Face layout, in order of preference; the last is the name of the first uploads.
WEIGHT_NAMES = ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin", "diffusion_model.pt")
TEXT_WEIGHT_NAMES = ("model.safetensors", "pytorch_model.bin")  # of the text encoder, a part of transformers

# Of files that hold a whole checkpoint. What such a file is, is told by its content.
SINGLE_FILE_ENDINGS = (".safetensors", ".ckpt", ".pt", ".pth")

# After the name of weights that are spread over several files: the list of these files.
INDEX_ENDING = ".index.json"

STAGE_FOLDERS = ("vqvae", "vae")  # of the first stage in a Hugging Face folder, whichever kind it is
CONDITIONER_FOLDER = "conditioner"  # of what the UNet sees beside the noise, in folders that we wrote
TEXT_FOLDER = "bert"  # of the text encoder of a model that draws from texts
TOKENIZER_FOLDER = "tokenizer"  # of its vocabulary
# What may say how it is used, in the order in which it is read.
TOKENIZER_FILES = (
    "vocab.txt",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
)
EMA_FOLDER = "unet_ema"  # of the averaged UNet, where diffusers' EMAModel wrote it beside the other

_SHARD = re.compile(r".*-\d{5}-of-\d{5}\.\w+")
# diffusers puts the name of a variant before the ending, of an index before its last one.
_VARIANT = re.compile(r"(?:(?:diffusion_)?pytorch_model|model)(?:\.(?P<file>[\w-]+)\.(?:safetensors|bin)|"
                      r"\.(?:safetensors|bin)\.index\.(?P<index>[\w-]+)\.json)")  # fmt: skip


def check_free(out: Path) -> None:
    """Raise CheckpointError if there is something in the place of a file or folder that is to be made."""
    if out.exists():
        raise CheckpointError(f"{out}: exists already, and nothing is overwritten. Choose another name, or remove it.")


def is_index(file: Path) -> bool:
    """Whether this is the name of such a list; a variant's has its name before the ending."""
    return file.suffix == ".json" and ".index." in file.name


def variant_of(name: str) -> str | None:
    """The variant whose weights, or index of weights, have this name; None for any other name."""
    match = None if _SHARD.fullmatch(name) else _VARIANT.fullmatch(name)
    return match and (match["file"] or match["index"])


def is_parts_folder(folder: Path) -> bool:
    """Whether a folder has the Hugging Face layout."""
    return any((folder / name).exists() for name in ("unet", EMA_FOLDER))


def weight_names(part: str) -> tuple[str, ...]:
    """Names of the weights in a part's folder, in order of preference."""
    return TEXT_WEIGHT_NAMES if part == TEXT_FOLDER else WEIGHT_NAMES


def find_weights(folder: Path) -> Path:
    """The weight file of one part, safetensors before pickle, or the index of its shards; else its only variant.

    Raises:
        CheckpointError: None of the known names is there, or two of equal right.
    """
    expected = weight_names(folder.name)
    for name in expected:
        if found := [file for file in (folder / name, folder / (name + INDEX_ENDING)) if file.is_file()]:
            return _only(found, f"{folder}: both {{}} hold the weights. Move one of them out of the folder.")
    names = [item.name for item in folder.iterdir()] if folder.is_dir() else []
    variants: dict[str, list[str]] = {}
    for name in sorted(names, reverse=True):  # .safetensors before .bin
        if variant := variant_of(name):
            variants.setdefault(variant, []).append(name)
    if not variants:
        found_names = first_names(names) or "nothing"
        raise CheckpointError(
            f"{folder}: no weights; expected {' or '.join(expected)}, found {found_names}. Copy them there."
        )
    return _only(
        [folder / found[0] for found in variants.values()],
        f"{folder}: {{}} are variants of the weights, and none is plain {expected[0]}. Which is meant? Give the "
        "one to load that name, or move the others out of the folder.",
    )


def single_files(folder: Path) -> list[Path]:
    """The files in a folder that may be checkpoints, by their endings; what they are is told by their content."""
    if not folder.is_dir():
        return []
    files = (item for item in folder.iterdir() if item.suffix in SINGLE_FILE_ENDINGS and item.is_file())
    return sorted(file for file in files if not _SHARD.fullmatch(file.name))


def find_single_file(folder: Path) -> Path | None:
    """The only checkpoint file in a folder, or in the `checkpoints` of a training run's folder; None if there is none.

    Raises:
        CheckpointError: There are several.
    """
    for place in (folder, folder / "checkpoints"):
        if found := single_files(place):
            return _only(found, f"{folder}: {{}} may all be meant. Name one of these files instead of the folder.")
    return None


def find_yaml(file: Path) -> Path | None:
    """The YAML of a checkpoint file: of its name, or config.yaml, or the only one beside it; else of its training run.

    Raises:
        ConfigError: There are several of equal right.
    """
    for yaml in (file.with_suffix(".yaml"), file.with_suffix(".yml"), file.parent / "config.yaml"):
        if yaml.is_file():
            return yaml
    others = {other.stem for other in single_files(file.parent)}
    # One with the name of another checkpoint belongs to that.
    found = [item for item in _yaml_files(file.parent) if item.stem not in others]
    if not found and file.parent.name == "checkpoints":
        configs = _yaml_files(file.parent.parent / "configs")
        found = [item for item in configs if item.stem.endswith("-project")]
    if not found:
        return None
    try:
        return _only(
            found, f"{file}: {{}} may all be its configuration. Say which with config, or name it config.yaml."
        )
    except CheckpointError as error:
        raise ConfigError(str(error)) from error


def _yaml_files(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(item for item in folder.iterdir() if item.suffix in (".yaml", ".yml") and item.is_file())


def _only(found: list[Path], message: str) -> Path:
    """The only one of these files; else an error with their names."""
    if len(found) > 1:
        raise CheckpointError(message.format(first_names([file.name for file in found])))
    return found[0]
