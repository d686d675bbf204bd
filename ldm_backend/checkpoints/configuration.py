"""Which configuration a checkpoint has: what was given, else what lies in it or beside it; never a guess."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from ..config.compvis_yaml import read_compvis_model
from ..config.conditioning import ConditioningConfig, LowResolutionConfig, TextConfig, conditioning_from_json
from ..config.model import FirstStageConfig, KLConfig, LDMConfig, ScheduleConfig, UNetConfig, VQConfig
from ..config.presets import MEASURED, PRESETS
from ..config.strict_json import build
from ..errors import CheckpointError, ConfigError, printable, short_repr
from ..json_text import parse_json
from ..locations import CONDITIONER_FOLDER, TEXT_FOLDER, find_yaml
from ..texts.bert_json import text_config_from_json
from .compvis import UNET
from .key_maps import compvis_unet_sources, current_name
from .single_file import UNET_PREFIX, config_from_metadata
from .tensor_files import StateDict, TensorFile, under

_MAX_JSON = 2**20  # bytes; a configuration has about 1 kB
_SUPER_RESOLUTION = "LDMSuperResolutionPipeline"  # the only pipeline of diffusers whose UNet sees a picture

Given = LDMConfig | str | Path | None  # what a user may say: a configuration, a preset, a YAML, or nothing


@dataclass(frozen=True)
class FoundConfig:
    """A configuration and what its source says about the checkpoint.

    Attributes:
        source: Where it is from, for messages.
        scale_factor: That of a YAML; None where the configuration alone says it, or nothing does.
        scale_by_std: Training measured the scale factor, and only the checkpoint has it.
        use_ema: Of a YAML, None where it does not say.
    """

    config: LDMConfig
    source: str
    scale_factor: float | None = None
    scale_by_std: bool = False
    use_ema: bool | None = None

    def scaled(self, path: Path, measured: float | None, asked: float | None) -> LDMConfig:
        """The configuration with the scale factor that counts.

        Args:
            path: Of the checkpoint.
            measured: What training left in the checkpoint.
            asked: What the user says, which goes first.

        Raises:
            ConfigError: Nobody says the factor, or two say different ones.
        """
        factor = asked if asked is not None else measured
        if factor is None:
            if self.scale_by_std:
                raise ConfigError(
                    f"{path}: no scale_factor, which {self.source} (scale_by_std) says that training measured and left "
                    "in the checkpoint. Say it with scale_factor, or take the checkpoint as training wrote it."
                )
            return self.config
        said = self.scale_factor
        if (
            asked is None
            and not self.scale_by_std
            and said is not None
            and not math.isclose(said, factor, rel_tol=1e-6)
        ):
            raise ConfigError(
                f"{path}: scale_factor is {factor:.6g} in the checkpoint and {said:.6g} in {self.source}. Say which is "
                "right with scale_factor."
            )
        stage = build(partial(replace, self.config.first_stage), str(path), {"scale_factor": float(factor)})
        return replace(self.config, first_stage=stage)


def given_config(config: LDMConfig | str | Path, scale_factor: float | None = None) -> FoundConfig:
    """What a user says: see `read_checkpoint`.

    Raises:
        ConfigError: Neither a preset nor a file, or a file of another family.
    """
    if isinstance(config, LDMConfig):
        return FoundConfig(config, "the configuration that was given")
    if str(config) in PRESETS:
        preset = PRESETS[str(config)]
        return FoundConfig(preset, f"the preset {config}", scale_by_std=str(config) in MEASURED)
    if Path(config).is_file():
        return _from_yaml(Path(config), scale_factor)
    raise ConfigError(f"config is {str(config)!r}: neither a file nor one of {', '.join(PRESETS)}. Give one.")


def file_config(file: TensorFile, config: Given, scale_factor: float | None) -> FoundConfig:
    """What was given, else a file's own metadata, else the YAML beside it.

    Raises:
        ConfigError: There is none, or it is of another family.
    """
    if config is not None:
        return given_config(config, scale_factor)
    own = config_from_metadata(file.metadata, str(file.path))
    if own is not None:
        return FoundConfig(own, "its metadata")
    if (yaml := find_yaml(file.path)) is not None:
        return _from_yaml(yaml, scale_factor)
    fitting = fitting_presets(file.tensors)
    known = f"those of its shapes are {', '.join(fitting)}" if fitting else f"{', '.join(PRESETS)}; none has its shapes"
    raise ConfigError(
        f"{file.path}: no configuration, and its tensors cannot tell the attention heads, the scale factor and the "
        f"betas. Say which model it is (config, {known}), or put its config.yaml beside it."
    )


def fitting_presets(tensors: StateDict) -> list[str]:
    """Names of the presets whose UNet has these layers, of these widths; of equal networks all.

    Args:
        tensors: Of a whole model, under the names of CompVis or of our single file.
    """
    theirs = under(UNET, tensors)
    ours = {current_name(key): tensor for key, tensor in under(UNET_PREFIX, tensors).items()}
    return [name for name, preset in PRESETS.items() if _has_layers(preset.unet, theirs, ours)]


def _has_layers(config: UNetConfig, theirs: StateDict, ours: StateDict) -> bool:
    sources = {key: source.key for key, source in compvis_unet_sources(config).items()}
    if theirs.keys() != set(sources.values()) and ours.keys() != sources.keys():
        return False
    sides = {"conv_in.weight": (config.block_out_channels[0], config.in_channels)}
    if config.cross_attention_dim is not None:
        key = "mid_block.attentions.0.transformer_blocks.0.attn2.to_k.weight"
        sides[key] = (config.block_out_channels[-1], config.cross_attention_dim)
    sides |= {f"down_blocks.{at}.resnets.0.conv2.weight": (w, w) for at, w in enumerate(config.block_out_channels)}
    found = theirs or ours
    return all(tuple(found[sources[key] if theirs else key].shape[:2]) == side for key, side in sides.items())


def folder_config(root: Path, unet: str, stage: str, scale_factor: float | None) -> LDMConfig:
    """The configuration of a Hugging Face folder, of its folders `unet` and `stage`.

    Raises:
        CheckpointError: A file is missing or no JSON.
        ConfigError: Not this family.
    """
    files = [root / unet / "config.json", root / stage / "config.json", root / "scheduler" / "scheduler_config.json"]
    if missing := [str(file.relative_to(root)) for file in files if not file.is_file()]:
        raise CheckpointError(
            f"{root}: {', '.join(missing)} missing; a Hugging Face folder has a configuration for each of its parts. "
            "Copy the configuration files of the model beside its weights, or say which model it is with config."
        )
    parts: dict[str, Any] = {
        "unet": UNetConfig.from_dict(read_json(files[0]), str(files[0])),
        "first_stage": first_stage_config(read_json(files[1]), files[1], scale_factor),
        "schedule": ScheduleConfig.from_dict(read_json(files[2]), str(files[2])),
    }
    parts["conditioning"] = _folder_conditioning(root, parts["unet"])
    return build(LDMConfig, str(root), parts)


def check_folder(root: Path, config: LDMConfig) -> None:
    """Raise ConfigError if a folder says of itself that its UNet sees something else than that of `config` does."""
    own = _own_conditioning(root)
    if own is not None and own != config.conditioning:
        raise ConfigError(
            f"{root}: by its {_maker(own)}/config.json it is a model for {own.task}, and the configuration that "
            f"was given is for {config.task}. Leave the configuration away, or give that of the model."
        )


def _own_conditioning(root: Path) -> ConditioningConfig | None:
    own, text = (root / folder / "config.json" for folder in (CONDITIONER_FOLDER, TEXT_FOLDER))
    if own.is_file() and text.is_file():
        raise ConfigError(
            f"{root}: both {CONDITIONER_FOLDER}/config.json and {TEXT_FOLDER}/config.json say what the UNet sees; "
            "expected one of them. Move the other out of the folder."
        )
    if text.is_file():
        return text_config_from_json(read_json(text), str(text))
    found = conditioning_from_json(read_json(own), str(own)) if own.is_file() else None
    if isinstance(found, TextConfig):
        raise ConfigError(f"{own}: kind is {found.kind!r}; expected a text encoder in {TEXT_FOLDER}. Convert it again.")
    return found


def _maker(conditioning: ConditioningConfig) -> str:
    """The folder of what makes it."""
    return TEXT_FOLDER if isinstance(conditioning, TextConfig) else CONDITIONER_FOLDER


def _folder_conditioning(root: Path, unet: UNetConfig) -> ConditioningConfig | None:
    """What a folder's UNet sees beside the noise: as a folder of its own says, or the pipeline's class."""
    index = root / "model_index.json"
    if (own := _own_conditioning(root)) is not None:
        return own
    if unet.in_channels == unet.out_channels:
        return None
    pipeline = read_json(index).get("_class_name") if index.is_file() else None
    if pipeline != _SUPER_RESOLUTION:
        raise ConfigError(
            f"{root}: its UNet has {unet.in_channels} input and {unet.out_channels} output channels, so it sees "
            f"something beside the noise, and what that is nothing says: model_index.json names "
            f"{short_repr(pipeline)}; expected {_SUPER_RESOLUTION}, or a folder {CONDITIONER_FOLDER} as ldm convert "
            f"writes it. Say which model it is with config: {', '.join(PRESETS)}."
        )
    return LowResolutionConfig()


def first_stage_config(data: dict[str, Any], file: Path, scale_factor: float | None = None) -> FirstStageConfig:
    """The configuration of a first stage, whichever kind its class says; without a class, its folder's name says it.

    Args:
        data: Of the file.
        file: Where it is.
        scale_factor: Replaces that of the file, whatever stands there.

    Raises:
        ConfigError: Of another class, or not this family.
    """
    usual = KLConfig if file.parent.name == "vae" else VQConfig
    stage_class = {"AutoencoderKL": KLConfig, "VQModel": VQConfig}.get(str(data.get("_class_name")), usual)
    if scale_factor is not None:
        data = {key: value for key, value in data.items() if key != "scaling_factor"} | {"scale_factor": scale_factor}
    return stage_class.from_dict(data, str(file))


def read_json(file: Path, most: int = _MAX_JSON) -> dict[str, Any]:
    """A JSON object.

    Args:
        file: Where it is.
        most: Bytes.

    Raises:
        CheckpointError: Unreadable, or not an object.
    """
    try:
        with file.open("rb") as opened:
            content = opened.read(most + 1)
        if len(content) > most:
            raise CheckpointError(
                f"{file}: more than {most} bytes; expected a file of settings, which is smaller. Download it again."
            )
        data = parse_json(content.decode("utf-8"))
    except CheckpointError:
        raise
    except (ValueError, OSError) as error:
        raise CheckpointError(f"{file}: not valid JSON ({printable(str(error))}). Download the file again.") from error
    if not isinstance(data, dict):
        raise CheckpointError(
            f"{file}: holds a {type(data).__name__}; expected a JSON object of settings. Download it again."
        )
    return data


def _from_yaml(file: Path, scale_factor: float | None) -> FoundConfig:
    model = read_compvis_model(file, scale_factor)
    return FoundConfig(model.config, str(file), model.scale_factor, model.scale_by_std, model.use_ema)
