"""Which files of a repository make a model, by their names alone. Every name that comes out is of a known form."""

from __future__ import annotations

import re
from collections.abc import Collection

from ..errors import CheckpointError, first_names, printable
from ..locations import (
    CONDITIONER_FOLDER,
    INDEX_ENDING,
    STAGE_FOLDERS,
    TEXT_FOLDER,
    TOKENIZER_FILES,
    TOKENIZER_FOLDER,
    variant_of,
    weight_names,
)

_SHARD = re.compile(r"(?:(?:diffusion_)?pytorch_model|model)-(\d{5})-of-(\d{5})(\.safetensors|\.bin)")
_MAKERS = (CONDITIONER_FOLDER, TEXT_FOLDER)  # of what the UNet sees beside the noise


def choose_files(name: str, names: Collection[str], variant: str | None = None) -> list[str]:
    """The files to take: of each part its configuration and one set of weights, in one file or several.

    Args:
        name: Of the model, for errors.
        names: All files of the repository, "/" between levels.
        variant: Like "fp16": its weights where a part has them, else the plain ones. None is the plain ones, or the
            only variant of a part that has no others: what the loader would choose.

    Raises:
        CheckpointError: Something is missing, there is no such variant, or several may be meant.
    """
    parts = _parts(names)
    inside = {part: _inside(part, names) for part in parts}
    every = set[str]().union(*map(_variants, inside.values()))
    if variant is not None and variant not in every:
        there = f"there are {first_names(every)}" if every else "there are none"
        raise CheckpointError(
            f"{name}: holds no weights of the variant {printable(variant)}; {there}. Leave it out, or give one "
            "that is there."
        )
    # What says and makes what the UNet sees comes first: an interrupted download is not taken for a model without.
    # The loader looks whether a conditioner needs weights; the encoder of texts always does.
    tokenizer = (f"{TOKENIZER_FOLDER}/{file}" for file in TOKENIZER_FILES)
    settings = (f"{part}/config.json" for part in _MAKERS)
    taken = [file for file in ("model_index.json", *settings, *tokenizer) if file in names]
    missing = []
    for part in _MAKERS:
        found = _weights(name, part, _inside(part, names), variant) if f"{part}/config.json" in names else []
        taken += found
        if not found and part == TEXT_FOLDER and f"{part}/config.json" in names:
            missing.append(" or ".join(f"{part}/{weights}" for weights in weight_names(part)))
    for file in ("scheduler/scheduler_config.json", *(f"{part}/config.json" for part in parts)):
        (taken if file in names else missing).append(file)
    for part, files in inside.items():
        found = _weights(name, part, files, variant)
        taken += found
        if not found:
            missing.append(" or ".join(f"{part}/{weights}" for weights in weight_names(part)))
    if missing:
        raise CheckpointError(
            f"{name}: holds no {', no '.join(missing)}; expected the folders unet, vqvae and scheduler of the Hugging "
            "Face layout. If it has another layout, download it by hand and give its path."
        )
    return taken


def is_whole(names: Collection[str]) -> bool:
    """Whether these files are a model with plain weights: a variant may be there for another program."""
    plain = [name for name in names if not variant_of(name.rpartition("/")[2])]
    try:
        choose_files("", plain)
    except CheckpointError:
        return False
    return True


def _parts(names: Collection[str]) -> tuple[str, str]:
    """The folders of the two networks."""
    stage = next((folder for folder in STAGE_FOLDERS if f"{folder}/config.json" in names), STAGE_FOLDERS[0])
    return "unet", stage


def _inside(part: str, names: Collection[str]) -> set[str]:
    return {file.removeprefix(f"{part}/") for file in names if file.startswith(f"{part}/")}


def _variants(files: Collection[str]) -> set[str]:
    return {found for file in files if (found := variant_of(file))}


def _weights(name: str, part: str, files: Collection[str], variant: str | None) -> list[str]:
    """The weights of a part to take, among its files; none if there are none."""
    variants = _variants(files)
    found = _plain_weights(part, files) if variant not in variants else _variant_weights(files, variant)
    if not found and variant is None and variants:
        found = _variant_weights(files, _only_variant(name, part, variants))
    return [f"{part}/{file}" for file in found]


def _plain_weights(part: str, files: Collection[str]) -> list[str]:
    plain = (name for weights in weight_names(part) for name in (weights, weights + INDEX_ENDING))
    return _with_shards(files, [name for name in plain if name in files])


def _variant_weights(files: Collection[str], variant: str | None) -> list[str]:
    # .safetensors before .bin, as the loader has it
    return _with_shards(files, sorted((name for name in files if variant_of(name) == variant), reverse=True))


def _with_shards(files: Collection[str], candidates: list[str]) -> list[str]:
    """The first that is whole: a file of weights, or an index with its shards; none if there is none."""
    for candidate in candidates:
        if not candidate.endswith(".json"):
            return [candidate]
        if shards := _shards(files, candidate):
            return [candidate, *shards]
    return []


def _shards(files: Collection[str], index: str) -> list[str]:
    """All files that belong to an index, if every number of them is there; the loader looks into the index."""
    variant = variant_of(index)
    # diffusers has had the variant before the number and behind it.
    mark, ending = f".{variant}" if variant else "", ".safetensors" if ".safetensors." in index else ".bin"
    found: dict[str, tuple[int, int]] = {}
    for file in files:
        match = _SHARD.fullmatch(file.replace(mark, "", 1)) if mark in file else None
        if match and match[3] == ending:
            found[file] = int(match[1]), int(match[2])
    totals = {total for _, total in found.values()}
    whole = len(totals) == 1 and sorted(number for number, _ in found.values()) == list(range(1, max(totals) + 1))
    return sorted(found) if whole else []


def _only_variant(name: str, part: str, variants: set[str]) -> str:
    if len(variants) > 1:
        raise CheckpointError(
            f"{name}: {part} has the variants {first_names(variants)}, and no plain weights. Say which to take: "
            "`ldm download --variant NAME`."
        )
    return next(iter(variants))
