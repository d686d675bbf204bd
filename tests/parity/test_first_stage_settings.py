"""Every setting and block type of diffusers' VQModel and AutoencoderKL: the same network here, or refused by its name.

Tolerance: 1e-4 of the standard deviation of what diffusers decodes, in float32; the order of the sums is another.
"""

from __future__ import annotations

import inspect
import itertools
import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.autoencoders.vq_model import VQModel
from diffusers.models.unets import unet_2d_blocks

from ldm_backend.checkpoints.checkpoint import load_into
from ldm_backend.config.model import FirstStageConfig, KLConfig, VQConfig
from ldm_backend.errors import ConfigError
from ldm_backend.networks.first_stage import build_first_stage
from ldm_backend.sampling.noise import draw_noise

pytestmark = [pytest.mark.parity, pytest.mark.filterwarnings("ignore")]

CLASSES: dict[str, tuple[Any, type[FirstStageConfig]]] = {"vq": (VQModel, VQConfig), "kl": (AutoencoderKL, KLConfig)}
SMALL: dict[str, Any] = {
    "block_out_channels": [8, 16],
    "down_block_types": ["DownEncoderBlock2D", "AttnDownEncoderBlock2D"],
    "up_block_types": ["AttnUpDecoderBlock2D", "UpDecoderBlock2D"],
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "latent_channels": 3,
}
# Class, and a change that runs.
RUNS: list[tuple[str, dict[str, Any]]] = [
    *itertools.product(
        CLASSES,
        (
            {"in_channels": 1, "out_channels": 1},
            {"layers_per_block": 2},
            {"act_fn": "swish"},
            {"latent_channels": 5},
            {"sample_size": 64},
            {"norm_num_groups": 8},
            {"mid_block_add_attention": False},
            {"force_upcast": True},
            {"force_upcast": False},
            {"block_out_channels": [16, 8]},
            {"scaling_factor": 0.5},
        ),
    ),
    ("vq", {"num_vq_embeddings": 7}),
    ("vq", {"vq_embed_dim": 5}),
    ("vq", {"norm_type": "group"}),
    ("vq", {"lookup_from_codebook": False}),
    ("kl", {"shift_factor": None}),
    ("kl", {"latents_mean": None, "latents_std": None}),
    ("kl", {"use_quant_conv": True, "use_post_quant_conv": True}),
]
# Class, a change that is refused, and what the message holds beside the key: the value, and what is supported.
REFUSED: list[tuple[str, dict[str, Any], str]] = [
    *((kind, {"in_channels": 4, "out_channels": 4}, r"4 .*expected 3 \(RGB\) or 1") for kind in CLASSES),
    *((kind, {"out_channels": 1}, r"1; expected 3 \(RGB\) or 1") for kind in CLASSES),
    *((kind, {"act_fn": "mish"}, "'mish'; supported is 'silu'") for kind in CLASSES),
    *((kind, {"sample_size": [32, 64]}, r"\[32, 64\]; expected int") for kind in CLASSES),
    *((kind, {"norm_num_groups": 3}, "3 groups; use a divisor") for kind in CLASSES),
    *((kind, {"mid_block_add_attention": None}, "None; expected bool") for kind in CLASSES),
    *((kind, {"layers_per_block": [1, 2]}, r"\[1, 2\]; expected int") for kind in CLASSES),
    ("vq", {"norm_type": "spatial"}, "'spatial'; supported is 'group'"),
    ("vq", {"lookup_from_codebook": True}, "True; supported is False"),
    ("kl", {"shift_factor": 0.1}, "0.1; supported is None"),
    ("kl", {"latents_mean": [0.1, 0.2, 0.3]}, "0.1; supported is None"),
    ("kl", {"latents_std": [2.0, 2.0, 2.0]}, "2.0; supported is None"),
    ("kl", {"use_quant_conv": False}, "False; supported is True"),
    ("kl", {"use_post_quant_conv": False}, "False; supported is True"),
    ("kl", {"scaling_factor": "many"}, "'many'; expected float"),
]


def name_of(case: Any) -> str:
    return ", ".join(f"{key} {value}" for key, value in case.items()) if isinstance(case, dict) else str(case)[:20]


@torch.no_grad()
def difference(kind: str, data: dict[str, Any], saved: Path) -> float:
    """Between what we encode and decode and what diffusers does from the same file and weights, in its deviations."""
    theirs_class, ours_class = CLASSES[kind]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        theirs: Any = theirs_class(**data).eval()
        for parameter in theirs.parameters():  # GroupNorm begins as the identity
            parameter.add_(0.1 * torch.randn_like(parameter))
    theirs.save_config(saved)
    config = ours_class.from_dict(json.loads((saved / "config.json").read_text()))
    ours = build_first_stage(config)
    load_into(ours, theirs.state_dict(), "first stage")
    image = draw_noise([1], (config.in_channels, 16, 24)).clamp(-1, 1)
    z = draw_noise([2], (config.z_channels, 8, 12))
    theirs_z = theirs.encode(image).latents if kind == "vq" else theirs.encode(image).latent_dist.mean
    theirs_image = theirs.decode(z).sample
    pairs = ((ours.encode(image) / config.scale_factor, theirs_z), (ours.decode(z * config.scale_factor), theirs_image))
    return max(float((a - b).abs().max() / b.std()) for a, b in pairs)


@pytest.mark.parametrize(("kind", "change"), RUNS, ids=name_of)
def test_what_runs_is_diffusers_network(tmp_path, kind, change):
    assert difference(kind, SMALL | change, tmp_path) < 1e-4


@pytest.mark.parametrize(("kind", "change", "message"), REFUSED, ids=name_of)
def test_what_does_not_run_is_refused_by_name(kind, change, message):
    theirs_class, ours_class = CLASSES[kind]
    with pytest.raises(ConfigError, match=f"config.json: .*{next(iter(change))}.*{message}"):
        ours_class.from_dict(theirs_class(**SMALL).config | change)


@pytest.mark.parametrize("kind", CLASSES)
def test_every_setting_of_the_installed_diffusers_is_walked(kind):
    """A setting that a later diffusers adds is refused as unknown until it stands in one of the lists."""
    changes = [change for name, change in RUNS if name == kind] + [
        change for name, change, _ in REFUSED if name == kind
    ]
    settings = set(inspect.signature(CLASSES[kind][0].__init__).parameters) - {"self"}
    assert settings == {key for change in changes for key in change} | SMALL.keys()


FACTORIES = {"down_block_types": unet_2d_blocks.get_down_block, "up_block_types": unet_2d_blocks.get_up_block}


@pytest.mark.parametrize("kind", CLASSES)
@pytest.mark.parametrize("key", FACTORIES)
def test_every_block_type(tmp_path, kind, key):
    names = re.findall(r'block_type == "(\w+)"', inspect.getsource(FACTORIES[key]))
    assert len(names) > 10
    for name, place in itertools.product(names, range(2)):
        types = list(SMALL[key])
        types[place] = name
        if name in ("DownEncoderBlock2D", "AttnDownEncoderBlock2D", "UpDecoderBlock2D", "AttnUpDecoderBlock2D"):
            assert difference(kind, SMALL | {key: types}, tmp_path) < 1e-4
        else:
            with pytest.raises(ConfigError, match=f"config.json: {key} is '{name}'; supported is .*run the model with"):
                CLASSES[kind][1].from_dict(CLASSES[kind][0](**SMALL).config | {key: types})
