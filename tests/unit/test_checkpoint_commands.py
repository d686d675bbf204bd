"""`ldm convert` and `ldm inspect`, as a shell runs them: results, messages, exit codes."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from compvis_writer import compvis_state_dict, small_yaml
from conditional_models import CONFIGS, write_conditional_folder
from safetensors import safe_open
from safetensors.torch import load_file

import ldm_backend
from ldm_backend.checkpoints.checkpoint import WEIGHTS
from ldm_backend.checkpoints.inspection import inspect_checkpoint
from ldm_backend.checkpoints.single_file import DTYPES, config_to_json
from ldm_backend.config.compvis_yaml import compvis_model_from_yaml
from ldm_backend.networks.first_stage import build_first_stage
from ldm_backend.networks.unet import UNet
from ldm_headless import cli
from ldm_headless.commands import checkpoints as checkpoint_commands

Tiny = ldm_backend.LatentDiffusion


class Ldm:
    """The command line in this process: exit code, standard output, standard error."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self._monkeypatch = monkeypatch
        self._capsys = capsys

    def __call__(self, *arguments: object) -> tuple[int, str, str]:
        self._monkeypatch.setattr(sys, "argv", ["ldm", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            cli.main()
        out, err = self._capsys.readouterr()
        return int(end.value.code or 0), out, err

    def refused(self, *arguments: object) -> str:
        """The message of a call that must fail: one line, exit code 2, no result."""
        status, out, err = self(*arguments)
        assert (status, out, err.count("\n")) == (2, "", 1), err
        assert err.startswith("ldm: ")
        return err


@pytest.fixture
def ldm(in_process: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Ldm:
    monkeypatch.chdir(tmp_path)
    return Ldm(monkeypatch, capsys)


@pytest.fixture
def compvis(tmp_path: Path) -> Path:
    """A tiny model in the released layout: model.ckpt, whose averaged weights are twice the raw ones, and its YAML."""
    data = small_yaml()
    config = compvis_model_from_yaml(data, "config.yaml").config
    with torch.random.fork_rng():
        torch.manual_seed(0)
        unet = UNet(config.unet).state_dict()
        first_stage = build_first_stage(config.first_stage).state_dict()
    averaged = {key: 2 * tensor for key, tensor in unet.items()}
    folder = tmp_path / "compvis"
    folder.mkdir()
    state = compvis_state_dict(config, unet, first_stage, averaged)
    torch.save({"state_dict": state, "global_step": 1}, folder / "model.ckpt")
    (folder / "config.yaml").write_text(yaml.safe_dump(data))
    return folder


def tensors_of(folder: Path) -> dict[str, dict[str, torch.Tensor]]:
    return {part: load_file(folder / part / "diffusion_pytorch_model.safetensors") for part in ("unet", "vqvae")}


def metadata_of(file: Path) -> dict[str, str]:
    with safe_open(file, framework="pt") as opened:
        return opened.metadata()


# convert


def test_folder_to_single_file_and_back_is_bit_identical(ldm: Ldm, tiny_folder: Path, tmp_path: Path) -> None:
    status, out, err = ldm("convert", tiny_folder, "model.safetensors")
    assert (status, out) == (0, "model.safetensors\n")
    assert "layout huggingface" in err
    status, out, _ = ldm("convert", "model.safetensors", "back", "--to", "folder")
    assert (status, out) == (0, "back\n")

    before, after = tensors_of(tiny_folder), tensors_of(tmp_path / "back")
    assert before.keys() == after.keys()
    for part, tensors in before.items():
        assert tensors.keys() == after[part].keys()
        for key, tensor in tensors.items():
            assert after[part][key].dtype == tensor.dtype
            assert torch.equal(after[part][key].view(torch.int32), tensor.view(torch.int32)), key
    config = ldm_backend.load(tiny_folder, device="cpu").config
    assert ldm_backend.load(tmp_path / "back", device="cpu").config == config


def test_the_checksum_is_that_of_sha256sum(ldm: Ldm, tiny_folder: Path, tmp_path: Path) -> None:
    ldm("convert", tiny_folder, "model.safetensors")
    digest = hashlib.sha256((tmp_path / "model.safetensors").read_bytes()).hexdigest()
    assert (tmp_path / "model.safetensors.sha256").read_text() == f"{digest}  model.safetensors\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.safetensors", "model.safetensors.sha256", "tiny"]


@pytest.mark.parametrize("dtype", list(DTYPES))
@pytest.mark.parametrize("to", ["single-file", "folder"])
def test_dtype_on_disk(ldm: Ldm, tiny_folder: Path, tmp_path: Path, dtype: str, to: str) -> None:
    assert ldm("convert", tiny_folder, "out", "--dtype", dtype, "--to", to)[0] == 0
    info = inspect_checkpoint(tmp_path / "out")
    assert info.dtypes == (str(DTYPES[dtype]).removeprefix("torch."),)


@pytest.mark.parametrize(("weights", "taken", "factor"), [("auto", "ema", 2), ("ema", "ema", 2), ("raw", "raw", 1)])
def test_the_choice_of_weights_is_in_the_file(
    ldm: Ldm, compvis: Path, tmp_path: Path, weights: str, taken: str, factor: int
) -> None:
    status, _, err = ldm("convert", compvis / "model.ckpt", "out.safetensors", "--weights", weights)
    assert status == 0
    assert f"weights: {'EMA' if taken == 'ema' else 'raw'}" in err
    metadata = metadata_of(tmp_path / "out.safetensors")
    assert {key: metadata[key] for key in ("weights", "source", "source_layout")} == {
        "weights": taken,
        "source": "model.ckpt",
        "source_layout": "compvis",
    }
    raw = torch.load(compvis / "model.ckpt", weights_only=True)["state_dict"]["model.diffusion_model.out.2.bias"]
    assert torch.equal(load_file(tmp_path / "out.safetensors")["unet.conv_out.bias"], factor * raw)
    other = "raw" if taken == "ema" else "ema"
    message = ldm.refused("convert", "out.safetensors", "again.safetensors", "--weights", other)
    assert f"out.safetensors: holds the {taken} weights, asked for were {other}" in message


def test_a_configuration_by_hand(ldm: Ldm, compvis: Path, tmp_path: Path) -> None:
    (compvis / "config.yaml").rename(tmp_path / "elsewhere.yaml")
    source = compvis / "model.ckpt"
    message = ldm.refused("convert", source, "a.safetensors")
    assert "no configuration" in message
    assert "celebahq-256, ffhq-256, lsun-bedrooms-256, lsun-churches-256" in message
    message = ldm.refused("convert", source, "a.safetensors", "--config", "celebahq")
    assert "'celebahq': neither a file nor one of celebahq-256" in message
    message = ldm.refused("convert", source, "a.safetensors", "--config", "celebahq-256")
    assert "model.ckpt" in message
    assert not (tmp_path / "a.safetensors").exists()

    arguments = ("convert", source, "a.safetensors", "--config", "elsewhere.yaml", "--scale-factor", "0.5")
    assert ldm(*arguments)[0] == 0
    info = inspect_checkpoint(tmp_path / "a.safetensors")
    assert info.config is not None
    assert info.config.first_stage.scale_factor == 0.5


def test_nothing_is_overwritten(ldm: Ldm, tiny_folder: Path, tmp_path: Path) -> None:
    for name, options in (("file", []), ("file", ["--to", "folder"]), ("sum", [])):
        taken = tmp_path / (name + ".sha256" if name == "sum" else name)
        taken.write_text("mine")
        message = ldm.refused("convert", tiny_folder, name, *options)
        assert f"{taken.name}: exists already, and nothing is overwritten" in message
        assert taken.read_text() == "mine"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "sum.sha256", "tiny"]
    assert "tiny: exists already" in ldm.refused("convert", tiny_folder, tiny_folder, "--to", "folder")
    assert "absent does not exist" in ldm.refused("convert", tiny_folder, "absent/out")


@pytest.mark.parametrize("to", ["single-file", "folder"])
def test_an_interruption_leaves_nothing(
    ldm: Ldm, tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, to: str
) -> None:
    def interrupted(tensors: object, file: Path, metadata: object = None) -> None:
        Path(file).write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr("safetensors.torch.save_file", interrupted)
    status, out, _ = ldm("convert", tiny_folder, "out", "--to", to)
    assert (status, out) == (130, "")
    assert [path.name for path in tmp_path.iterdir()] == ["tiny"]


@pytest.mark.parametrize(("option", "value"), [("--dtype", "fp8"), ("--weights", "best"), ("--to", "zip")])
def test_an_unknown_choice_is_wrong_usage(ldm: Ldm, tiny_folder: Path, tmp_path: Path, option: str, value: str) -> None:
    status, out, err = ldm("convert", tiny_folder, "out", option, value)
    assert (status, out) == (2, "")
    assert option in err
    assert value in err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("value", ["0", "-1", "nan", "inf"])
def test_a_scale_factor_out_of_range(ldm: Ldm, tiny_folder: Path, value: str) -> None:
    assert "scale_factor is" in ldm.refused("convert", tiny_folder, "out", "--scale-factor", value)


def test_the_choices_are_those_of_the_backend() -> None:
    assert tuple(checkpoint_commands.Dtype) == tuple(DTYPES)
    assert tuple(checkpoint_commands.Weights) == WEIGHTS


# inspect


def test_inspect_a_folder(ldm: Ldm, tiny_folder: Path, tiny: Tiny) -> None:
    status, out, err = ldm("inspect", tiny_folder)
    assert (status, err) == (0, "")
    counts = [sum(p.numel() for p in module.parameters()) for module in (tiny.unet, tiny.first_stage)]
    for text in ("huggingface", f"{counts[0]:,} parameters", f"{counts[1]:,} parameters", "float32"):
        assert text in out
    for part in ("unet", "vqvae"):
        file = tiny_folder / part / "diffusion_pytorch_model.safetensors"
        assert hashlib.sha256(file.read_bytes()).hexdigest() in out
        assert f"{file.stat().st_size:,} bytes" in out
    for text in ("unet.block_out_channels", "[8, 16]", "first_stage.num_vq_embeddings", "64", "schedule.beta_start"):
        assert text in out


def test_inspect_json(ldm: Ldm, tiny_folder: Path, tiny: Tiny, tmp_path: Path) -> None:
    ldm("convert", tiny_folder, "model.safetensors", "--dtype", "bf16")
    status, out, err = ldm("inspect", "model.safetensors", "--json")
    assert (status, err) == (0, "")
    file = tmp_path / "model.safetensors"
    assert json.loads(out) == {
        "path": "model.safetensors",
        "layout": "single-file",
        "weights": "only",
        "has_ema": False,
        "unet_parameters": sum(p.numel() for p in tiny.unet.parameters()),
        "first_stage_parameters": sum(p.numel() for p in tiny.first_stage.parameters()),
        "conditioner_parameters": 0,
        "task": "unconditional",
        "dtypes": ["bfloat16"],
        "files": [
            {
                "path": "model.safetensors",
                "bytes": file.stat().st_size,
                "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
            }
        ],
        "config": json.loads(json.dumps(config_to_json(tiny.config))),
        "problem": None,
    }


@pytest.mark.parametrize("as_folder", [True, False])
def test_inspect_without_configuration_shows_what_can_be_seen(ldm: Ldm, compvis: Path, as_folder: bool) -> None:
    """The numbers are those that are shown with the configuration."""
    path = compvis if as_folder else compvis / "model.ckpt"
    known = json.loads(ldm("inspect", path, "--json")[1])
    assert known["layout"] == "compvis"
    assert (known["weights"], known["has_ema"], known["problem"]) == ("ema", True, None)
    (compvis / "config.yaml").unlink()
    seen = json.loads(ldm("inspect", path, "--json")[1])
    assert "Say which model it is" in seen["problem"]
    assert seen["config"] is None
    assert seen["task"] is None
    changed = {"path", "config", "problem", "task"}
    assert {k: v for k, v in seen.items() if k not in changed} == {k: v for k, v in known.items() if k not in changed}

    status, out, err = ldm("inspect", path)
    assert status == 0
    assert "EMA (the file holds raw ones too)" in out
    assert known["files"][0]["sha256"] in out
    assert "Say which model it is" in err
    assert "lsun-churches-256" in err


def test_inspect_with_a_configuration_of_another_model(ldm: Ldm, compvis: Path) -> None:
    assert "model.ckpt" in ldm.refused("inspect", compvis, "--config", "lsun-churches-256")
    assert "neither a file nor one of" in ldm.refused("inspect", compvis, "--config", "nothing")


@pytest.mark.parametrize(
    ("content", "message"), [(None, "nothing is there"), (b"", "an empty file"), (b"hello world", "cannot be read")]
)
def test_inspect_what_is_no_checkpoint(ldm: Ldm, tmp_path: Path, content: bytes | None, message: str) -> None:
    if content is not None:
        (tmp_path / "model.ckpt").write_bytes(content)
    assert message in ldm.refused("inspect", "model.ckpt")


def test_a_path_is_shown_as_it_is(ldm: Ldm, tiny_folder: Path, tmp_path: Path) -> None:
    """Brackets mean colours to rich."""
    tiny_folder.rename(tmp_path / "[red]model")
    status, out, _ = ldm("inspect", "[red]model")
    assert status == 0
    assert "[red]model" in out


def test_a_shell_gets_the_exit_code(tmp_path: Path) -> None:
    command = [sys.executable, "-P", "-m", "ldm_headless", "inspect", "absent"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False, timeout=60)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("ldm: absent: nothing is there; expected a folder with unet/")


@pytest.mark.parametrize("task", CONFIGS)
def test_models_of_other_tasks(ldm: Ldm, tmp_path: Path, task: str) -> None:
    """They are shown and converted with their task; what draws from noise alone refuses them before it begins."""
    source = write_conditional_folder(tmp_path / "model", CONFIGS[task])
    status, out, _ = ldm("inspect", source)
    assert status == 0
    assert re.search(rf"task\s+{task}\b", out)
    assert json.loads(ldm("inspect", source, "--json")[1])["task"] == task
    assert ldm("convert", source, "a.safetensors")[0] == 0
    shown = json.loads(ldm("inspect", "a.safetensors", "--json")[1])
    assert (shown["task"], shown["conditioner_parameters"]) == (task, 15 if task == "semantic-synthesis" else 0)
    for arguments in (("generate", "--seeds", "1", "--out", "images"), ("verify",)):
        message = ldm.refused(*arguments, "a.safetensors")
        assert f"takes an unconditional model, and this one is a{'n' * (task[0] == 'i')} {task} model" in message
    assert not (tmp_path / "images").exists()
