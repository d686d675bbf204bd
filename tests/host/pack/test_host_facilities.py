"""What newer hosts ask of a pack, each held to where the host at hand has it: lists, assets, reloading, new names."""

import os
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from pack_copy import copy_of_the_pack
from safetensors.torch import load_file, save_file

from ldm_headless import PACK_ROOT, ComfyClient, PrivateHost, find_host
from ldm_headless.errors import ExecutionError

FOREIGN = Path(__file__).parent / "foreign_pack"
ENDINGS = (".safetensors", ".ckpt", ".pt", ".pth", ".bin")
FOLDED = {
    "LDMCheckpointLoader": {"weights", "config", "precision", "compile", "vae_precision"},
    "LDMDDIMSampler": {"grid", "cache_interval", "cache_depth"},
    "LDMSampler": {"grid"},
    "LDMInpaint": {"grid", "jump_length"},
}


def knows(flag: str) -> bool:
    """Whether the host at hand has a flag."""
    return f'"{flag}"' in (find_host().path / "comfy" / "cli_args.py").read_text()


def mentions(module: str, text: str) -> bool:
    return text in (find_host().path / module).read_text()


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrivateHost]:
    """A host with a foreign pack, assets if it has them, and other files than weights among the checkpoints."""
    base = tmp_path_factory.mktemp("facilities")
    models = base / "models" / "ldm"
    models.mkdir(parents=True)
    for name in ("README.md", "SHA256SUMS", "train.py", "config.yaml", "picture.png"):
        (models / name).write_text("no weights")
    save_file({"x": torch.zeros(1)}, models / "file.safetensors")
    arguments = ["--enable-assets"] if knows("--enable-assets") else []
    packs = {"comfyui-ldm": PACK_ROOT, "foreign": FOREIGN}
    with PrivateHost(find_host(), packs, base, arguments=arguments) as running:
        yield running


@pytest.fixture(scope="module")
def models(host: PrivateHost) -> Path:
    return host.base_directory / "models" / "ldm"


@pytest.fixture(scope="module", autouse=True)
def tiny(models: Path, write_checkpoint: Callable[[Path], Path]) -> Path:
    return write_checkpoint(models / "tiny")


def listed(host: PrivateHost, path: str) -> Any:
    return httpx.get(f"{host.url}{path}", trust_env=False, timeout=30).raise_for_status().json()


def test_the_hosts_own_list_names_weights_only(host: PrivateHost) -> None:
    names = listed(host, "/models/ldm")
    assert "file.safetensors" in names
    assert any("portraits-128" in name for name in names)
    assert [name for name in names if not name.endswith(ENDINGS)] == []


@pytest.mark.skipif(not knows("--enable-assets"), reason="this host has no assets")
def test_assets_are_weights_only(host: PrivateHost) -> None:
    deadline = time.monotonic() + 60
    while not (found := [asset["name"] for asset in assets(host)]) and time.monotonic() < deadline:
        time.sleep(1)  # the host looks through its folders after its start
    assert "file.safetensors" in {Path(name).name for name in found}
    assert [name for name in found if not name.endswith(ENDINGS)] == []


def assets(host: PrivateHost) -> list[dict[str, Any]]:
    """Those of models; the host starts with empty folders of everything else."""
    return listed(host, "/api/assets?include_tags=models&limit=500")["assets"]


@pytest.mark.skipif(not mentions("comfy_api/latest/_io.py", "advanced: bool"), reason="this host folds no inputs")
def test_inputs_that_most_leave_alone_are_folded(client: ComfyClient) -> None:
    info = client.object_info()
    for node, names in FOLDED.items():
        inputs = {
            name: spec
            for group in ("required", "optional")
            for name, spec in info[node]["input"].get(group, {}).items()
        }
        assert {name for name, spec in inputs.items() if spec[1].get("advanced")} == names


@pytest.mark.parametrize("checkpoint", ["tiny", "portraits-128"])
def test_a_model_that_was_loaded_again_draws_the_same(graph, run, assert_same_images, checkpoint: str) -> None:
    """As for a second graphics card."""
    loader = graph.checkpoint(checkpoint)
    again = graph.add("TestLoadedAgain", model=loader[0], vae=loader[1])
    pictures = [
        graph.save(graph.add("LDMVQDecode", vae=source[1], latent=graph.ddim(source, graph.noise(6), steps=4)[0]))
        for source in (loader, again)
    ]
    result = run(graph)
    assert_same_images(*(result[picture.id] for picture in pictures))


def test_another_file_is_not_loaded_for_it(graph, run, models: Path, write_checkpoint: Callable[[Path], Path]) -> None:
    """Replaced under its name since: half of a picture would come from another model."""
    name = write_checkpoint(models / "replaced").name
    loader = graph.checkpoint(name)
    graph.save(graph.add("LDMVQDecode", vae=loader[1], latent=graph.ddim(loader, graph.noise(), steps=1)[0]))
    run(graph)
    keep = graph.add("LDMModelInfo", model=loader[0])  # from the cache: its inputs are as they were
    file = models / name / "unet" / "diffusion_pytorch_model.safetensors"
    file.with_suffix(".new").write_bytes(file.read_bytes())
    stat = file.stat()
    file.with_suffix(".new").replace(file)
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    again = graph.add("TestLoadedAgain", model=loader[0], vae=loader[1])
    graph.save(graph.add("LDMVQDecode", vae=again[1], latent=graph.ddim(again, graph.noise(), steps=1)[0]))
    with pytest.raises(ExecutionError, match="not the one that this model was loaded from"):
        run(graph)
    assert keep


@pytest.mark.skipif(not mentions("comfy_api/latest/_io.py", "class NodeReplace"), reason="this host replaces no nodes")
def test_an_old_name_of_a_node_still_runs(tmp_path: Path, write_checkpoint: Callable[[Path], Path]) -> None:
    """A copy of the pack in which a node has been renamed."""
    pack = copy_of_the_pack(tmp_path / "pack")
    code = pack / "nodes" / "__init__.py"
    renamed = 'Renamed("LDMOldNoise", "LDMLatentNoise", ("seed", "width"), {name: name for name in ("seed", "width", '
    renamed += '"height", "batch_size")} | {"seed": "the_seed"})'
    code.write_text(code.read_text().replace("RENAMED: tuple[Renamed, ...] = ()", f"RENAMED = ({renamed},)"))
    write_checkpoint(tmp_path / "base" / "models" / "ldm" / "tiny")
    inputs = {"the_seed": 3, "width": 64, "height": 64, "batch_size": 1}
    prompt = {
        "1": {"class_type": "LDMOldNoise", "inputs": inputs, "_meta": {"title": "Noise"}},
        "2": {"class_type": "SaveLatent", "inputs": {"samples": ["1", 0], "filename_prefix": "x"}, "_meta": {}},
    }
    with PrivateHost(find_host(), {"ldm": pack}, tmp_path / "base") as host, ComfyClient(host.url) as client:
        assert "LDMOldNoise" in listed(host, "/node_replacements")
        client.follow(client.submit(prompt))
    (file,) = (tmp_path / "base" / "output").rglob("*.latent")
    assert load_file(file)["latent_tensor"].shape == (1, 3, 16, 16)


def test_a_model_that_ended_in_between_is_passed_over() -> None:
    """The host's list of loaded models then holds None, which counts for no memory and is not kept."""
    location = find_host()
    code = (
        "import gc, importlib.util, sys, torch; sys.path.insert(0, sys.argv[1])\n"
        "from comfy.cli_args import args; args.cpu = True\n"
        "import comfy.model_management as management, comfy.model_patcher as patcher\n"
        "spec = importlib.util.spec_from_file_location('pack', sys.argv[2] + '/__init__.py',"
        " submodule_search_locations=[sys.argv[2]])\n"
        "pack = importlib.util.module_from_spec(spec); sys.modules['pack'] = pack; spec.loader.exec_module(pack)\n"
        "from pack.nodes.host import memory\n"
        "card, cpu = torch.device('meta'), torch.device('cpu')\n"
        "network = torch.nn.Linear(2, 2)\n"
        "models = [patcher.ModelPatcher(one, load_device=card, offload_device=cpu)"
        " for one in (network, torch.nn.Linear(3, 3), torch.nn.Linear(4, 4))]\n"
        "management.current_loaded_models.extend(management.LoadedModel(one) for one in models)\n"
        "models.pop(1); gc.collect()\n"
        "assert management.loaded_models()[1] is None\n"
        "management.get_free_memory = lambda device: 1000\n"  # there is no card to ask
        "management.get_torch_device = lambda: card\n"
        "kept = []; management.free_memory = lambda size, device, keep: kept.extend(keep)\n"
        "models[1].model.model_loaded_weight_memory = 24\n"
        "print(memory.reachable_memory(card)); memory.make_chunks('x', network).recover()\n"
        "print([one.model is models[0] for one in kept])"
    )
    command = [location.python, "-P", "-c", code, str(location.path), str(PACK_ROOT)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=location.path, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-2:] == ["1024", "[True]"]
