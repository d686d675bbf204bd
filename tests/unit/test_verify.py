"""`ldm verify`: digests that no layout changes, the comparison with a reference, the line and the exit codes."""

from __future__ import annotations

import hashlib
import json
import math
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from compvis_writer import compvis_state_dict
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner, Result

import ldm_backend
from ldm_backend import verification
from ldm_backend.checkpoints.checkpoint import read_checkpoint
from ldm_backend.checkpoints.conversion import convert_to_folder, convert_to_single_file
from ldm_backend.checkpoints.known_weights import KNOWN_FILES, KNOWN_TENSORS, REFERENCES, Reference, reference_for
from ldm_backend.config.compvis_yaml import read_compvis_model
from ldm_backend.config.model import LDMConfig, ScheduleConfig, UNetConfig, VQConfig
from ldm_backend.config.presets import CELEBAHQ_256, LSUN_CHURCHES_256
from ldm_backend.errors import CheckpointError
from ldm_backend.verification import Verification, draw_pixels, largest_difference, tensor_digest, verify_checkpoint
from ldm_headless.cli import app
from ldm_headless.commands.verify import report_line, table_rows
from ldm_headless.errors import VerificationError

WEIGHTS = "diffusion_pytorch_model.safetensors"
CELEBAHQ, DEMO = REFERENCES


@pytest.fixture
def demo(root: Path) -> Path:
    return root / "demo" / "portraits-128"


@pytest.fixture
def original(tiny_folder: Path, tmp_path: Path) -> Path:
    """The tiny model as an original checkpoint: its averaged weights are those of the folder, twice the raw ones."""
    found = read_checkpoint(tiny_folder)
    raw = {key: tensor / 2 for key, tensor in found.unet.items()}
    file = tmp_path / "model.ckpt"
    torch.save({"state_dict": compvis_state_dict(found.config, raw, found.first_stage, found.unet)}, file)
    return file


def ldm_verify(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["verify", *map(str, arguments)])


def digests(found: Verification) -> dict[tuple[str, str | None], str]:
    return {(digest.network, digest.weights): digest.sha256 for digest in found.digests}


# Digests


def test_a_digest_is_what_its_docstring_says() -> None:
    """Against an independent reading of the words; names sorted, not as they came, and the dtype does not count."""
    matrix = torch.tensor([[1.0, 2.0], [3.0, -0.5]])
    words = b"a 2x2\n" + b"".join(bytes.fromhex(x) for x in ("0000803f", "00004040", "00000040", "000000bf"))
    expected = hashlib.sha256(words + b"b \n" + bytes.fromhex("0000c03f")).hexdigest()
    tensors = {"b": torch.tensor(1.5), "a": matrix.T}  # not contiguous
    assert tensor_digest(tensors, "x") == expected
    assert tensor_digest({key: tensor.bfloat16() for key, tensor in tensors.items()}, "x") == expected


def test_a_digest_tells_values_names_and_shapes() -> None:
    weights = {"a": torch.arange(6.0), "b": torch.zeros(2)}
    found = {
        tensor_digest(tensors, "x")
        for tensors in (
            weights,
            weights | {"a": torch.arange(6.0).nextafter(torch.tensor(9.0))},
            weights | {"a": torch.arange(6.0).reshape(2, 3)},
            {"a": weights["a"], "c": weights["b"]},
            {"a": weights["a"]},
        )
    }
    assert len(found) == 5


@pytest.mark.parametrize("tensor", [torch.tensor([math.nan]), torch.tensor([1]), torch.tensor([1j])])
def test_what_is_no_weight_has_no_digest(tensor: torch.Tensor) -> None:
    with pytest.raises(CheckpointError, match=r"some\.ckpt: a "):
        tensor_digest({"a": tensor}, "some.ckpt")


def test_the_layouts_have_the_same_digests_and_pixels(tiny_folder: Path, original: Path, tmp_path: Path) -> None:
    checkpoint = read_checkpoint(tiny_folder)
    convert_to_single_file(checkpoint, tmp_path / "one.safetensors")
    convert_to_folder(read_checkpoint(original, config=checkpoint.config), tmp_path / "back")
    paths = (tiny_folder, tmp_path / "one.safetensors", tmp_path / "back")
    one_set = [verify_checkpoint(path, "cpu") for path in paths]
    both = verify_checkpoint(original, "cpu", config=checkpoint.config)
    assert [found.layout for found in (*one_set, both)] == ["huggingface", "single-file", "huggingface", "compvis"]
    assert len({tuple(digests(found).items()) for found in one_set}) == 1
    unet, first_stage = digests(one_set[0]).values()
    assert digests(both)["UNet", "ema"] == unet
    assert digests(both)["first stage", None] == first_stage
    assert {found.pixels for found in one_set} == {both.pixels}


def test_an_upload_is_told_to_be_ema_or_raw(original: Path, tiny_folder: Path) -> None:
    """Both sets have a digest, whichever was drawn with."""
    config = read_checkpoint(tiny_folder).config
    drawn_ema, drawn_raw = (verify_checkpoint(original, "cpu", config=config, weights=name) for name in ("auto", "raw"))
    assert (drawn_ema.weights, drawn_raw.weights) == ("ema", "raw")
    assert digests(drawn_ema) == digests(drawn_raw)
    assert len(set(digests(drawn_ema).values())) == 3
    assert drawn_ema.pixels != drawn_raw.pixels


# Pixels


def test_the_pixels_are_the_corner_of_the_picture_that_generate_draws(tiny: ldm_backend.LatentDiffusion) -> None:
    pixels = draw_pixels(tiny)
    corner = ldm_backend.generate(tiny, seeds=[0], steps=5)[0, -3:, -3:, -1].flatten()
    assert [int(pixel * 255) for pixel in pixels] == corner.tolist()


def test_which_reference_a_model_is_compared_with() -> None:
    other = replace(CELEBAHQ_256, schedule=ScheduleConfig(beta_end=0.02))
    assert reference_for(CELEBAHQ_256) == reference_for(CELEBAHQ_256, "celebahq-256") == CELEBAHQ
    assert reference_for(DEMO.config) == reference_for(DEMO.config, "some.yaml") == DEMO
    for config in (LSUN_CHURCHES_256, other, LDMConfig(unet=UNetConfig(attention_head_dim=8))):
        assert reference_for(config) is None
    assert reference_for(CELEBAHQ_256, "ffhq-256") is None
    scaled = replace(CELEBAHQ_256, first_stage=VQConfig(scale_factor=0.18215))
    assert reference_for(scaled) == CELEBAHQ


def test_the_published_configurations_are_compared_with_the_published_pixels(data: Path) -> None:
    """The numbers are those of diffusers' deleted test; both files that come with the weights lead to them."""
    assert CELEBAHQ.pixels == (0.4399, 0.44975, 0.46825, 0.474, 0.4359, 0.4581, 0.45095, 0.4341, 0.4447)
    assert CELEBAHQ.tolerance == 0.01
    parts = {}
    for part, name, cls in (
        ("unet", "unet/config", UNetConfig),
        ("first_stage", "vqvae/config", VQConfig),
        ("schedule", "scheduler/scheduler_config", ScheduleConfig),
    ):
        parts[part] = cls.from_dict(json.loads((data / "ldm-celebahq-256" / f"{name}.json").read_text()))
    assert reference_for(LDMConfig(**parts)) == CELEBAHQ
    assert reference_for(read_compvis_model(data / "compvis" / "celeba256.yaml").config) == CELEBAHQ


@pytest.mark.parametrize(
    ("reference", "difference", "verdict"),
    [
        (None, None, "NO REFERENCE"),
        (CELEBAHQ, 0.0, "PASS"),
        (CELEBAHQ, 0.0099, "PASS"),
        (CELEBAHQ, 0.01, "FAIL"),
        (CELEBAHQ, math.nan, "FAIL"),
    ],
)
def test_verdict(reference: Reference | None, difference: float | None, verdict: str) -> None:
    found = Verification(
        Path("x"), "compvis", "ema", True, CELEBAHQ_256, (), (), "cpu", "fp32", (0.5,) * 9, reference, difference
    )
    assert found.verdict == verdict


def test_the_largest_difference_counts() -> None:
    assert largest_difference((0.5, 0.25), (0.375, 0.75)) == 0.5
    assert math.isnan(largest_difference((0.5, math.nan), (0.5, 0.5)))


def test_the_known_hashes_are_hashes() -> None:
    for table in (KNOWN_FILES, KNOWN_TENSORS):
        assert all(len(bytes.fromhex(sha256)) == 32 and sha256 == sha256.lower() for sha256 in table)
    assert not any("celebahq" in name for name in KNOWN_TENSORS.values())  # nobody of the project has seen them


@pytest.mark.parametrize("step", ["load", "draw_pixels"])
def test_a_file_that_changes_meanwhile_is_no_proof(
    tiny_folder: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """Before the model is loaded, or while it draws."""
    work = getattr(verification, step)

    def after_a_change(*arguments: object, **settings: object) -> object:
        file = tiny_folder / "unet" / WEIGHTS
        save_file(load_file(file), file.with_name("new"))
        file.with_name("new").replace(file)
        return work(*arguments, **settings)

    monkeypatch.setattr(verification, step, after_a_change)
    with pytest.raises(CheckpointError, match=r"tiny: its files were changed or replaced meanwhile"):
        verify_checkpoint(tiny_folder, "cpu")


# The command


def test_the_demo_passes(demo: Path) -> None:
    """As a shell runs it: the whole of it on a real checkpoint."""
    command = [sys.executable, "-P", "-m", "ldm_headless", "verify", str(demo), "--device", "cpu"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert (done.returncode, done.stderr) == (0, "")
    line = done.stdout.splitlines()[-1]
    unet, first_stage = (next(key for key, name in KNOWN_TENSORS.items() if part in name) for part in ("UNet", "first"))
    for text in (
        "ldm verify: PASS | comfyui-ldm ",
        "| huggingface, one set | files c4ccc0296740 known, 512e6dfb88fc known |",
        f"| UNet {unet[:12]} known | first stage {first_stage[:12]} known | torch {torch.__version__} | cpu ",
        "| fp32 | portraits-128: difference 0.0",
    ):
        assert text in line
    assert line.endswith(" of 0.002")
    assert str(demo) not in line
    for text in (str(demo), unet, first_stage, "16,371,812 bytes", "demo portraits-128, UNet", "0.72480  0.72041"):
        assert text in done.stdout


def test_other_weights_of_the_demo_fail(demo: Path, tmp_path: Path) -> None:
    """Exit code 1 after the whole answer, as JSON too."""
    changed = shutil.copytree(demo, tmp_path / "changed")
    file = changed / "vqvae" / WEIGHTS
    tensors = load_file(file)
    tensors["decoder.conv_out.bias"] += 0.01
    save_file(tensors, file)
    result = ldm_verify(changed, "--device", "cpu", "--json")
    assert isinstance(result.exception, VerificationError)
    assert result.exception.exit_code == 1
    message = str(result.exception)
    assert message.startswith(f"{changed}: the pixels are not those of portraits-128: it holds other weights")
    found = json.loads(result.stdout)
    assert found["verdict"] == "FAIL"
    assert found["difference"] == pytest.approx(0.005, abs=1e-3)
    assert [digest["known"] for digest in found["digests"]] == ["demo portraits-128, UNet", None]
    assert [file["known"] for file in found["files"]] == ["demo portraits-128, UNet", None]
    assert found["line"].startswith("ldm verify: FAIL | ")


def test_a_foreign_scale_factor_is_named(demo: Path, tmp_path: Path) -> None:
    convert_to_single_file(read_checkpoint(demo, scale_factor=0.5), tmp_path / "scaled.safetensors")
    message = str(ldm_verify(tmp_path / "scaled.safetensors", "--device", "cpu").exception)
    assert "its scale factor is 0.5, that of portraits-128 is 1; or it holds other weights" in message


def test_without_a_reference_the_line_has_the_pixels(tiny_folder: Path, original: Path, tmp_path: Path) -> None:
    convert_to_single_file(read_checkpoint(original, "raw", read_checkpoint(tiny_folder).config), tmp_path / "raw.sft")
    result = ldm_verify(tmp_path / "raw.sft", "--device", "cpu", "--precision", "bf16")
    assert result.exit_code == 0
    *table, line = result.stdout.splitlines()
    assert line.startswith("ldm verify: NO REFERENCE | ")
    assert "| single-file, raw |" in line
    assert "| bf16 |" in line
    assert len(line.rpartition("pixels ")[2].split()) == 9
    assert any("none: nobody recorded pixels of this model" in row for row in table)
    found = json.loads(ldm_verify(tmp_path / "raw.sft", "--device", "cpu", "--json").stdout)
    assert (found["verdict"], found["reference"], found["difference"]) == ("NO REFERENCE", None, None)
    assert found["files"][0]["sha256"] == hashlib.sha256((tmp_path / "raw.sft").read_bytes()).hexdigest()


def test_both_sets_are_in_the_line_and_the_table(tiny_folder: Path, original: Path) -> None:
    found = verify_checkpoint(original, "cpu", config=read_checkpoint(tiny_folder).config)
    line = report_line(found)
    assert "| compvis, EMA |" in line
    assert f"| EMA UNet {digests(found)['UNet', 'ema'][:12]} |" in line
    assert f"| raw UNet {digests(found)['UNet', 'raw'][:12]} |" in line
    rows = table_rows(found)
    assert ("weights", "EMA (the file holds raw ones too)") in rows
    assert ("raw UNet tensors", digests(found)["UNet", "raw"]) in rows
    assert dict(table_rows(replace(found, weights="raw")))["weights"] == "raw (the file holds EMA too)"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["absent"], "nothing is there"),
        (["{tiny}", "--weights", "ema"], "holds one set of weights"),
        (["{original}"], "no configuration"),
        (["{original}", "--config", "celebahq-256"], "do not fit the configuration"),
    ],
)
def test_what_cannot_be_verified_is_refused(
    tiny_folder: Path, original: Path, arguments: list[str], message: str
) -> None:
    """With the exit code 2, which errors of the backend have."""
    filled = [text.format(tiny=tiny_folder, original=original) for text in arguments]
    result = ldm_verify(*filled, "--device", "cpu")
    assert isinstance(result.exception, ldm_backend.LDMError)
    assert not hasattr(result.exception, "exit_code")
    assert message in str(result.exception)
    assert result.stdout == ""


def test_wrong_usage() -> None:
    for arguments in ([], ["x", "--device", "tpu"], ["x", "--precision", "fp8"]):
        assert ldm_verify(*arguments).exit_code == 2
