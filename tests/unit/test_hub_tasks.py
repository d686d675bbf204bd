"""Models of the trained tasks on the hub: theirs and those that we wrote; and those that are on none."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from class_models import RELEASES as CLASS_RELEASES
from conditional_models import CONFIGS, RELEASES, SUPER_RESOLUTION, load_conditional, write_conditional_folder
from hub_server import REPO, HubServer, ask_here
from pictured import command
from safetensors.torch import load_file, save_file
from text_models import load_texts, write_text_folder
from vector_models import RELEASES as VECTOR_RELEASES

import ldm_backend
from ldm_backend.checkpoints.checkpoint import read_checkpoint
from ldm_backend.checkpoints.conversion import convert_to_folder
from ldm_backend.config.presets import PRESETS
from ldm_backend.hub.choice import choose_files, is_whole
from ldm_backend.hub.models import download, local_path
from ldm_headless.generation.image_maker import checkpoint_hash

WEIGHTS = "diffusion_pytorch_model.safetensors"
# As CompVis/ldm-super-resolution-4x-openimages has them.
THEIRS = {
    "README.md", "model_index.json", "scheduler/scheduler_config.json", "unet/config.json",
    "unet/diffusion_pytorch_model.bin", "vqvae/config.json", "vqvae/diffusion_pytorch_model.bin", ".gitattributes",
}  # fmt: skip


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(params=CONFIGS)
def ours(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, Path]:
    """A folder that `ldm convert` wrote."""
    checkpoint = read_checkpoint(write_conditional_folder(tmp_path / "source", CONFIGS[request.param]))
    convert_to_folder(checkpoint, tmp_path / "ours")
    return request.param, tmp_path / "ours"


def same(one: ldm_backend.LatentDiffusion, other: ldm_backend.LatentDiffusion) -> bool:
    """Configuration, and every number of the networks."""
    pairs = [(one.unet, other.unet), (one.first_stage, other.first_stage)]
    if one.conditioner is not None and other.conditioner is not None:
        pairs.append((one.conditioner, other.conditioner))
    states = [(a.state_dict(), b.state_dict()) for a, b in pairs]
    return one.config == other.config and all(torch.equal(a[key], b[key]) for a, b in states for key in a)


def test_a_folder_of_ours_from_the_hub_is_the_model(ours, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Downloaded into a folder, and loaded by its name, then from the cache without a question."""
    task, folder = ours
    with HubServer(folder) as server:
        ask_here(server.url, tmp_path / "cache", monkeypatch)
        download(REPO, tmp_path / "model")
        assert files_of(tmp_path / "model") == {k: v for k, v in files_of(folder).items() if k != "README.md"}
        expected = load_conditional(tmp_path / "again", CONFIGS[task])
        assert expected.task == task
        assert same(ldm_backend.load(tmp_path / "model", "cpu"), expected)
        assert same(ldm_backend.load(REPO, "cpu"), expected)
        asked = len(server.requests)
        assert same(ldm_backend.load(REPO, "cpu"), expected)
        assert len(server.requests) == asked


def test_theirs_for_super_resolution(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Weights as pickles, a card, and nothing but the pipeline's class that says what the UNet sees."""
    folder = write_conditional_folder(tmp_path / "theirs", SUPER_RESOLUTION)
    for part in ("unet", "vqvae"):
        torch.save(load_file(folder / part / WEIGHTS), folder / part / "diffusion_pytorch_model.bin")
        (folder / part / WEIGHTS).unlink()
    (folder / "README.md").write_text("a card")
    (folder / ".gitattributes").write_text("*.bin filter=lfs")
    assert set(files_of(folder)) == THEIRS
    with HubServer(folder) as server:
        ask_here(server.url, tmp_path / "cache", monkeypatch)
        download(REPO, tmp_path / "model")
        assert set(files_of(tmp_path / "model")) == THEIRS - {"README.md", ".gitattributes"}
        expected = load_conditional(tmp_path / "again", SUPER_RESOLUTION)
        assert same(ldm_backend.load(tmp_path / "model", "cpu"), expected)
        assert same(ldm_backend.load(local_path(REPO), "cpu"), expected)


def test_what_the_unet_sees_is_there_before_its_weights():
    """So that a download that was cut is not taken for a model that sees nothing, or lacks its layer."""
    parts = [f"{part}/{file}" for part in ("unet", "vqvae", "conditioner") for file in ("config.json", WEIGHTS)]
    names = [*parts, "scheduler/scheduler_config.json", "model_index.json", "README.md"]
    taken = choose_files("a/b", names)
    assert set(taken) == set(names) - {"README.md"}
    first = max(taken.index(name) for name in ("model_index.json", "conditioner/config.json", f"conditioner/{WEIGHTS}"))
    assert first < min(taken.index(f"{part}/{WEIGHTS}") for part in ("unet", "vqvae"))
    assert not any(is_whole(taken[:number]) for number in range(len(taken)))
    assert is_whole(taken)


@pytest.mark.parametrize(
    ("files", "variant", "expected"),
    [
        ({"config.json"}, None, {"config.json"}),  # inpainting, which needs no weights
        ({"config.json", WEIGHTS, "diffusion_pytorch_model.bin"}, None, {"config.json", WEIGHTS}),
        ({"config.json", "diffusion_pytorch_model.fp16.safetensors"}, None, None),  # the only ones
        ({"config.json", WEIGHTS}, "fp16", {"config.json", WEIGHTS}),
        ({WEIGHTS, "picture.png"}, None, set()),  # somebody else's folder of that name
    ],
)
def test_files_of_a_conditioner(files, variant, expected):
    mark = f".{variant}" if variant else ""
    weights = f"diffusion_pytorch_model{mark}.safetensors"
    names = {f"{part}/{file}" for part in ("unet", "vqvae") for file in ("config.json", weights)}
    names |= {"scheduler/scheduler_config.json"} | {f"conditioner/{file}" for file in files}
    taken = {name for name in choose_files("a/b", names, variant) if name.startswith("conditioner/")}
    assert taken == {f"conditioner/{file}" for file in (files if expected is None else expected)}


@pytest.mark.parametrize("bert", ["model.safetensors", "pytorch_model.bin"])
def test_a_model_of_texts_is_taken_whole(bert, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """With its encoder and its vocabulary, which come before the UNet; as CompVis/ldm-text2im-large-256 has them."""
    folder = write_text_folder(tmp_path / "theirs")
    if bert != "model.safetensors":
        torch.save(load_file(folder / "bert" / "model.safetensors"), folder / "bert" / bert)
        (folder / "bert" / "model.safetensors").unlink()
    (folder / "tokenizer" / "special_tokens_map.json").write_text("{}")
    (folder / "tokenizer" / "picture.png").write_text("")
    with HubServer(folder) as server:
        ask_here(server.url, tmp_path / "cache", monkeypatch)
        download(REPO, tmp_path / "model")
        wanted = set(files_of(folder)) - {"README.md", "tokenizer/picture.png"}
        assert set(files_of(tmp_path / "model")) == wanted
        expected = load_texts(tmp_path / "again")
        assert same(ldm_backend.load(tmp_path / "model", "cpu"), expected)
        assert same(ldm_backend.load(REPO, "cpu"), expected)
    taken = choose_files("a/b", wanted)
    first = max(taken.index(name) for name in wanted if name.startswith(("bert", "tokenizer", "model_index")))
    assert first < min(taken.index(name) for name in wanted if name.startswith(("unet/diff", "vqvae/diff")))
    assert not any(is_whole(taken[:number]) for number in range(len(taken)))
    assert not is_whole(wanted - {f"bert/{bert}"})
    assert is_whole(wanted)


ADDRESSES = RELEASES | CLASS_RELEASES | VECTOR_RELEASES | {"text2img256": "text-to-image-256"}


@pytest.mark.parametrize("name", ADDRESSES)
def test_what_is_on_no_hub_is_told_with_its_address(name, monkeypatch: pytest.MonkeyPatch):
    """Before a place is asked for, and nobody is asked."""
    monkeypatch.delenv("COMFYUI_PATH", raising=False)
    status, text = command("download", name)
    assert status == 2
    others = {
        **{"bsr_sr": "sr_bsr.zip", "semantic_synthesis512": "semantic_synthesis.zip", "cin256": "cin.zip"},
        **{"cin256-v2": "nitro/cin/model.ckpt", "text2img256": "text2img.zip"},
    }
    folder = "rdm" if name == "rdm768x768" else "latent-diffusion"
    file = "model.ckpt" if name == "rdm768x768" else others.get(name, f"{name}.zip")
    assert f"Fetch https://ommer-lab.com/files/{folder}/{file} yourself, " in text
    assert ("unpack it" in text) == (name not in ("cin256-v2", "rdm768x768"))
    assert "no checksum of it was published" in text
    assert f"--config {ADDRESSES[name]}" in text
    assert ADDRESSES[name] in PRESETS


def test_a_separate_conditioner_counts_in_the_hash_of_a_checkpoint(tmp_path: Path):
    """Two folders that differ in it alone are two checkpoints; without one the hash is that of the two other parts."""
    hashes = set()
    for number in range(2):
        folder = write_conditional_folder(tmp_path / str(number), CONFIGS["semantic-synthesis"])
        file = folder / "conditioner" / WEIGHTS
        save_file({key: tensor + number for key, tensor in load_file(file).items()}, file)
        hashes |= {checkpoint_hash(read_checkpoint(folder)) for _ in range(2)}
    assert len(hashes) == 2
