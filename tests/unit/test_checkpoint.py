"""Loading: every accepted spelling gives the same weights, and every bad file one error that names it."""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import ldm_backend
from ldm_backend.checkpoints.key_maps import current_name
from ldm_backend.errors import CheckpointError, ConfigError, LDMError

UNET = Path("unet") / "diffusion_pytorch_model.safetensors"
VQ = Path("vqvae") / "diffusion_pytorch_model.safetensors"


def name_of_2022(key: str) -> str:
    for new, old in (("to_q", "query"), ("to_k", "key"), ("to_v", "value"), ("to_out.0", "proj_attn")):
        key = key.replace(f".{new}.", f".{old}.")
    return key


def rewrite(folder: Path, file: Path, change) -> None:
    """Apply `change` to the tensors of a safetensors file."""
    save_file(change({key: tensor.clone() for key, tensor in load_file(folder / file).items()}), folder / file)


@pytest.mark.parametrize(
    "name", ["diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin", "diffusion_model.pt"]
)
@pytest.mark.parametrize("rename", [name_of_2022, lambda key: key])
def test_every_spelling_loads_the_same_weights(tiny_folder, name, rename):
    """Three file names, two generations of attention keys."""
    expected = ldm_backend.load(tiny_folder, device="cpu")
    for file in (UNET, VQ):
        weights = {rename(key): tensor.clone() for key, tensor in load_file(tiny_folder / file).items()}
        (tiny_folder / file).unlink()
        if name.endswith(".safetensors"):
            save_file(weights, tiny_folder / file)
        else:
            torch.save(weights, tiny_folder / file.parent / name)
    loaded = ldm_backend.load(tiny_folder, device="cpu")
    for part in ("unet", "first_stage"):
        ours, theirs = getattr(loaded, part).state_dict(), getattr(expected, part).state_dict()
        assert all(torch.equal(ours[key], theirs[key]) for key in theirs)


def test_half_precision_files_become_float32(tiny_folder):
    rewrite(tiny_folder, UNET, lambda weights: {key: tensor.half() for key, tensor in weights.items()})
    assert all(p.dtype == torch.float32 for p in ldm_backend.load(tiny_folder, device="cpu").unet.parameters())


def test_loaded_networks_are_for_inference(tiny):
    for module in (tiny.unet, tiny.first_stage):
        assert not module.training
        assert not any(p.requires_grad for p in module.parameters())


def test_only_attention_keys_are_renamed():
    assert current_name("down_blocks.1.attentions.0.key.weight") == "down_blocks.1.attentions.0.to_k.weight"
    for key in (
        "conv_in.weight",
        "key.weight",
        "down_blocks.1.attentions.0.group_norm.bias",
        "attentions.0.key.running",
    ):
        assert current_name(key) == key


def truncate(file: Path, keep: float) -> None:
    data = file.read_bytes()
    file.write_bytes(data[: int(len(data) * keep)])


class Foreign:
    """Unpickling this would call os.system."""

    def __reduce__(self):
        import os

        return os.system, ("touch pwned",)


def pickled(folder: Path, content: object) -> None:
    (folder / UNET).unlink()
    torch.save(content, folder / "unet" / "diffusion_pytorch_model.bin")


def plain_pickle(folder: Path) -> None:
    (folder / UNET).unlink()
    (folder / "unet" / "diffusion_pytorch_model.bin").write_bytes(pickle.dumps({"a": Foreign()}, protocol=2))


def without(key: str):
    return lambda weights: {k: t for k, t in weights.items() if k != key}


BAD_FILES = {
    "missing folder": (lambda f: shutil.rmtree(f), "nothing is there.*expected a folder"),
    "missing config": (lambda f: (f / "unet" / "config.json").unlink(), "unet/config.json missing"),
    "missing scheduler": (lambda f: shutil.rmtree(f / "scheduler"), "scheduler/scheduler_config.json missing"),
    "missing weights": (lambda f: (f / VQ).unlink(), "vqvae: no weights.*found config.json"),
    "config is no JSON": (lambda f: (f / "unet" / "config.json").write_text("{"), "config.json: not valid JSON"),
    "config is a list": (lambda f: (f / "unet" / "config.json").write_text("[1]"), "holds a list"),
    "config is binary": (lambda f: (f / "unet" / "config.json").write_bytes(b"\xff\xfe\x00"), "not valid JSON"),
    "half a file": (lambda f: truncate(f / UNET, 0.5), "safetensors: cannot be read.*download it again"),
    "empty file": (lambda f: truncate(f / UNET, 0.0), "cannot be read, 0 bytes"),
    "half a header": (lambda f: (f / UNET).write_bytes((f / UNET).read_bytes()[:100]), "cannot be read, 100 bytes"),
    "missing key": (lambda f: rewrite(f, UNET, without("conv_in.bias")), "missing keys: conv_in.bias"),
    "extra key": (lambda f: rewrite(f, VQ, lambda w: w | {"lost": torch.zeros(1)}), "unexpected keys: lost"),
    "wrong shape": (
        lambda f: rewrite(f, UNET, lambda w: w | {"conv_in.weight": torch.zeros(8, 4, 3, 3)}),
        r"conv_in.weight is \(8, 4, 3, 3\), expected \(8, 3, 3, 3\)",
    ),
    "integers": (
        lambda f: rewrite(f, UNET, lambda w: w | {"conv_in.bias": torch.zeros(8, dtype=torch.int64)}),
        "conv_in.bias is torch.int64",
    ),
    "both spellings": (
        lambda f: rewrite(f, UNET, lambda w: w | {"mid_block.attentions.0.query.weight": torch.zeros(16, 16)}),
        "mid_block.attentions.0.to_q.weight is there twice",
    ),
    "foreign global": (lambda f: pickled(f, {"a": Foreign()}), r"refused.*(posix|os)\.system.*convert it"),
    "bare pickle": (plain_pickle, "a bare pickle, as torch.save wrote before PyTorch 1.6"),
    "pickled list": (lambda f: pickled(f, [torch.zeros(1)]), "holds a list"),
    "pickled numbers": (lambda f: pickled(f, {"a": 1}), "a is int"),
    "half a pickle": (
        lambda f: (pickled(f, dict(load_file(f / VQ))), truncate(f / "unet" / "diffusion_pytorch_model.bin", 0.5)),
        "bin: cannot be read.*download it again",
    ),
    "text as pickle": (
        lambda f: ((f / UNET).unlink(), (f / "unet" / "diffusion_pytorch_model.bin").write_text("hello world")),
        "bin: (cannot be read|refused)",
    ),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_bad_files(tiny_folder, monkeypatch, case):
    """One LDMError that says what is wrong; nothing is executed, nothing written."""
    spoil, message = BAD_FILES[case]
    spoil(tiny_folder)
    monkeypatch.chdir(tiny_folder.parent)
    with pytest.raises(CheckpointError, match=f"(?s){message}") as error:
        ldm_backend.load(tiny_folder, device="cpu")
    assert str(tiny_folder) in str(error.value)
    assert not (tiny_folder.parent / "pwned").exists()


def test_one_part_in_place_of_the_whole(tiny_folder):
    with pytest.raises(CheckpointError, match="a UNet without its first stage"):
        ldm_backend.load(tiny_folder / UNET)
    with pytest.raises(CheckpointError, match="a first stage without a UNet; load_first_stage"):
        ldm_backend.load(tiny_folder / VQ)


def test_weights_of_another_configuration(tiny_folder):
    """A wider configuration beside narrow weights is caught by shape, before anything is used."""
    file = tiny_folder / "unet" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"block_out_channels": [16, 32]}))
    with pytest.raises(CheckpointError, match="do not fit the configuration"):
        ldm_backend.load(tiny_folder)


def test_one_family_of_errors(tiny_folder):
    (tiny_folder / "unet" / "config.json").write_text("{}")
    with pytest.raises(LDMError) as error:
        ldm_backend.load(tiny_folder)
    assert isinstance(error.value, ConfigError)
