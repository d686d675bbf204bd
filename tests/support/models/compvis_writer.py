"""Writes checkpoints in the layout of CompVis/latent-diffusion, for tests: the inverse of what the loader does."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

from ldm_backend.checkpoints.key_maps import Source, compvis_first_stage_sources, compvis_unet_sources, ema_key
from ldm_backend.config.model import LDMConfig

DATA = Path(__file__).parents[2] / "data" / "compvis"


def published_shapes(name: str) -> dict[str, tuple[int, ...]]:
    """Keys and shapes of the networks of a release, as the original code builds them."""
    rows = (line.split() for line in (DATA / f"{name}.keys.txt").read_text().splitlines())
    return {key: tuple(int(side) for side in shape.split("x")) for key, shape in rows}


def whole_shapes(release: str, ema: bool = True) -> dict[str, tuple[int, ...]]:
    """A release as training leaves it: with the schedule's buffers, perhaps averaged weights and their counters."""
    shapes = published_shapes(release.replace("512", "256"))
    names = [key for key in shapes if key.startswith("model.")]
    averaged = {"model_ema." + key.removeprefix("model.").replace(".", ""): shapes[key] for key in names if ema}
    counters: dict[str, tuple[int, ...]] = {"model_ema.decay": ()} if ema else {}
    return shapes | averaged | counters | {"betas": (1000,), "alphas_cumprod": (1000,), "logvar": (1000,)}


def write_holes(file: Path, shapes: dict[str, tuple[int, ...]]) -> None:
    """A safetensors file of float32 zeros that takes no space on the disk."""
    header, end = {}, 0
    for key, shape in shapes.items():
        start, end = end, end + 4 * math.prod(shape)
        header[key] = {"dtype": "F32", "shape": list(shape), "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with file.open("wb") as opened:
        opened.write(len(text).to_bytes(8, "little") + text)
        opened.truncate(8 + len(text) + end)


def small_yaml() -> dict[str, Any]:
    """The released YAML of CelebA-HQ with a small network: 32 channels, two levels, 16 codes."""
    data = yaml.safe_load((DATA / "celeba256.yaml").read_text())
    params = data["model"]["params"]
    params["unet_config"]["params"] |= {"model_channels": 32, "channel_mult": [1, 2], "attention_resolutions": [2]}
    params["first_stage_config"]["params"]["n_embed"] = 16
    params["first_stage_config"]["params"]["ddconfig"]["ch"] = 32
    return data


def compvis_state_dict(
    config: LDMConfig, unet: Mapping[str, Tensor], first_stage: Mapping[str, Tensor], ema: Mapping[str, Tensor] | None
) -> dict[str, Tensor]:
    """Tensors under our names as a whole checkpoint: raw and averaged UNet, first stage, buffers."""
    sources = compvis_unet_sources(config.unet)
    state = {f"model.diffusion_model.{key}": tensor for key, tensor in _join(sources, unet).items()}
    if ema is not None:
        state |= {ema_key(key): tensor for key, tensor in _join(sources, ema).items()}
        state |= {"model_ema.decay": torch.tensor(0.9999), "model_ema.num_updates": torch.tensor(410_000)}
    stage_sources = compvis_first_stage_sources(config.first_stage)
    state |= {f"first_stage_model.{k}": t for k, t in _join(stage_sources, first_stage).items()}
    return state | {"betas": torch.zeros(1000), "alphas_cumprod": torch.zeros(1000), "logvar": torch.zeros(1000)}


def _join(sources: Mapping[str, Source], tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    joined = {}
    for key in dict.fromkeys(source.key for source in sources.values()):
        parts = [(source, tensors[ours]) for ours, source in sources.items() if source.key == key]
        joined[key] = _as_there(key, parts)
    return joined


def _as_there(key: str, parts: Iterable[tuple[Source, Tensor]]) -> Tensor:
    parts = sorted(parts, key=lambda part: part[0].qkv or 0)
    source, tensor = parts[0]
    if source.qkv is not None:  # q, k, v of head 0, then of head 1, ...
        heads = [part.reshape(source.heads, -1, *part.shape[1:]) for _, part in parts]
        tensor = torch.stack(heads, dim=1).reshape(-1, *tensor.shape[1:])
    if tensor.ndim == 2 and (".qkv." in key or ".1.proj_out." in key):
        return tensor[..., None]  # Conv1d
    return (
        tensor[..., None, None] if tensor.ndim == 2 and (".attn_1." in key or ".attn." in key) else tensor
    )  # 1x1 Conv2d
