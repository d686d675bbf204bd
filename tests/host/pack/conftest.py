"""A tiny checkpoint inside the host's model folder, and a short way to write graphs for the pack's own tests."""

import io
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from class_models import GUIDED, IMAGENET, UNGUIDED, write_class_file
from conditional_models import CONFIGS, load_conditional
from model_folder import write_model_folder
from PIL import Image
from safetensors.torch import load_file, save_file

import ldm_backend
from ldm_backend.config.model import LDMConfig, UNetConfig, VQConfig
from ldm_headless import ComfyClient, Event, PrivateHost, find_host
from ldm_headless.errors import ExecutionError, PromptInterruptedError, PromptRejectedError

TINY = LDMConfig(
    unet=UNetConfig(
        sample_size=16,
        block_out_channels=(32, 32, 64),
        down_block_types=("DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
        layers_per_block=1,
    ),
    first_stage=VQConfig(sample_size=64, block_out_channels=(32, 32, 64), layers_per_block=1, num_vq_embeddings=64),
)


class Node:
    """A node of a `Graph`; `node[i]` is a link to its output i."""

    def __init__(self, node_id: str) -> None:
        self.id = node_id

    def __getitem__(self, output: int) -> list[Any]:
        return [self.id, output]


class Graph:
    """A prompt in API format, written node by node."""

    def __init__(self) -> None:
        self.prompt: dict[str, dict[str, Any]] = {}

    def add(self, class_type: str, **inputs: Any) -> Node:
        node_id = str(len(self.prompt) + 1)
        self.prompt[node_id] = {"class_type": class_type, "inputs": inputs}
        return Node(node_id)

    def checkpoint(self, name: str = "tiny") -> Node:
        return self.add("LDMCheckpointLoader", checkpoint=name)

    def noise(self, seed: int = 3, batch_size: int = 1, width: int = 64, height: int = 64) -> Node:
        return self.add("LDMLatentNoise", seed=seed, width=width, height=height, batch_size=batch_size)

    def empty(self, batch_size: int = 1, width: int = 64, height: int = 64, **model: Any) -> Node:
        """For samplers that draw their own noise."""
        return self.add("LDMEmptyLatent", width=width, height=height, batch_size=batch_size, **model)

    def odd(self) -> Node:
        """16x17 cells, of an empty latent: no size of a picture, and 17 cannot be halved twice."""
        cells = {"width": 8 * 17, "height": 8 * 16, "x": 0, "y": 0}  # LatentCrop counts eight pixels for each
        return self.add("LatentCrop", samples=self.empty(width=96, height=64)[0], **cells)

    def ddim(self, model: Node, latent: Node, steps: int = 5, eta: float = 0.0, grid: str = "leading") -> Node:
        return self.add("LDMDDIMSampler", model=model[0], latent=latent[0], steps=steps, eta=eta, grid=grid)

    def conditioned(self, loader: Node, made: Node, eta: float = 0.0) -> Node:
        """Four steps of ddim in SamplerCustomAdvanced, of a conditioning and the latent that comes with it."""
        return self.add(
            "SamplerCustomAdvanced",
            noise=self.add("LDMNoise", seed=5)[0],
            guider=self.add("BasicGuider", model=loader[0], conditioning=made[0])[0],
            sampler=self.add("LDMSamplerSelect", sampler="ddim", eta=eta)[0],
            sigmas=self.add("LDMSigmas", model=loader[0], steps=4, grid="trailing", strength=1.0)[0],
            latent_image=made[1],
        )

    def of_class(self, loader: Node, numbers: str) -> Node:
        """The conditioning of classes of the loaded model."""
        return self.add("LDMClass", model=loader[0], class_name="none", classes=numbers)

    def save(self, images: Node) -> Node:
        return self.add("SaveImage", images=images[0], filename_prefix="test")

    def core(self, name: str = "tiny", seed: int = 3, batch_size: int = 1, **sampler: Any) -> Node:
        """The pack's own four nodes and SaveImage, which is returned."""
        loader = self.checkpoint(name)
        sampled = self.ddim(loader, self.noise(seed, batch_size), **sampler)
        return self.save(self.add("LDMVQDecode", vae=loader[1], latent=sampled[0]))


@pytest.fixture
def graph() -> Graph:
    """An empty graph."""
    return Graph()


@pytest.fixture(scope="session")
def write_checkpoint() -> Callable[[Path], Path]:
    """Writes the tiny checkpoint (random weights, always the same) as a Hugging Face folder."""

    return partial(write_model_folder, config=TINY)


@pytest.fixture(scope="session")
def models(host: PrivateHost) -> Path:
    """The host's folder of checkpoints."""
    return host.base_directory / "models" / "ldm"


@pytest.fixture(scope="session", autouse=True)
def tiny(models: Path, write_checkpoint: Callable[[Path], Path]) -> ldm_backend.LatentDiffusion:
    """The tiny checkpoint, present in the host as "tiny" and loaded here without a host."""
    return ldm_backend.load(write_checkpoint(models / "tiny"), device="cpu")


@pytest.fixture(scope="session")
def conditional(models: Path) -> dict[str, ldm_backend.LatentDiffusion]:
    """A tiny checkpoint of each task that sees a picture, present in the host under the task's name, and loaded."""
    return {task: load_conditional(models / task, config) for task, config in CONFIGS.items()}


@pytest.fixture(scope="session")
def classes(models: Path) -> dict[str, ldm_backend.LatentDiffusion]:
    """Tiny models of classes, present in the host under these names with .safetensors, and loaded here."""
    configs = {"guided": GUIDED, "unguided": UNGUIDED, "imagenet": IMAGENET}
    files = {name: write_class_file(models / f"{name}.safetensors", config) for name, config in configs.items()}
    return {name: ldm_backend.load(file, "cpu") for name, file in files.items()}


@pytest.fixture
def put_picture(host: PrivateHost) -> Callable[[str, np.ndarray], None]:
    """Writes uint8 pixels as a PNG into the host's input folder, for LoadImage."""

    def write(name: str, pixels: np.ndarray) -> None:
        Image.fromarray(pixels).save(host.base_directory / "input" / name)

    return write


@pytest.fixture(scope="session")
def foreign_vae(host: PrivateHost) -> str:
    """Name of a VAE of another family: a file with the one key by which every host knows a tiny autoencoder."""
    memory = find_host().path / "comfy" / "memory_management.py"
    if memory.is_file() and "\naimdo_enabled = True" in memory.read_text():
        pytest.skip("while DynamicVRAM is on without a card, the host's own VAELoader does not work")
    file = host.base_directory / "models" / "vae" / "foreign.safetensors"
    file.parent.mkdir(parents=True, exist_ok=True)
    save_file({"taesd_decoder.1.weight": torch.zeros(64, 4, 3, 3)}, file)
    return file.name


@pytest.fixture
def run(client: ComfyClient) -> Callable[..., dict[str, np.ndarray]]:
    """Runs a graph to its end; returns the images of each node, (N, H, W, 3) uint8, by node id."""

    def run_graph(graph: Graph, on_event: Callable[[Event], None] | None = None) -> dict[str, np.ndarray]:
        prompt_id = client.submit(graph.prompt)
        client.follow(prompt_id, on_event)
        images: dict[str, list[np.ndarray]] = {}
        for ref in client.outputs(prompt_id):
            images.setdefault(ref.node_id, []).append(np.asarray(Image.open(io.BytesIO(client.fetch(ref)))))
        return {node_id: np.stack(arrays) for node_id, arrays in images.items()}

    return run_graph


@pytest.fixture
def refusal(client: ComfyClient) -> Callable[[Graph, str], str]:
    """Runs a graph that one node must refuse with an error of ours; returns its message.

    Hosts from 0.8 on see by themselves that a choice is none of a node's, before anything runs, and list what there is.
    """
    checks_choices = "io.Combo.io_type" in (find_host().path / "execution.py").read_text()

    def run_and_catch(graph: Graph, node_type: str) -> str:
        with pytest.raises((PromptRejectedError, ExecutionError)) as caught:
            client.follow(client.submit(graph.prompt))
        if isinstance(caught.value, ExecutionError):
            assert caught.value.node_type == node_type
            assert ".errors." in caught.value.exception_type, caught.value
            return caught.value.exception_message
        assert checks_choices, caught.value
        assert f"({node_type}): Value not in list" in str(caught.value)
        return str(caught.value)

    return run_and_catch


@pytest.fixture
def save_latent(client: ComfyClient, host: PrivateHost) -> Callable[[Any, Any], torch.Tensor]:
    """Runs a graph and returns the latent of one node, through SaveLatent."""

    def run_and_read(graph: Any, latent: Any) -> torch.Tensor:
        saver = graph.add("SaveLatent", samples=latent[0], filename_prefix="test")
        prompt_id = client.submit(graph.prompt)
        client.follow(prompt_id)
        entry = client.history(prompt_id)
        assert entry is not None
        (file,) = entry["outputs"][saver.id]["latents"]
        return load_file(host.base_directory / "output" / file["subfolder"] / file["filename"])["latent_tensor"]

    return run_and_read


@pytest.fixture
def progress_until_cancelled(client: ComfyClient) -> Callable[[Graph, str], list[int]]:
    """Runs a graph, cancels it at the first step of one node; returns the steps that this node reported."""

    def run_and_cancel(graph: Graph, node_id: str) -> list[int]:
        pressed = threading.Event()
        progress: list[int] = []

        def cancel(event: Event) -> None:
            if event.type == "progress" and event.data.get("node") == node_id:
                progress.append(event.data["value"])
                if not pressed.is_set():
                    pressed.set()
                    client.interrupt()

        prompt_id = client.submit(graph.prompt)
        started = time.monotonic()
        with pytest.raises(PromptInterruptedError):
            client.follow(prompt_id, cancel)
        assert time.monotonic() - started < 30
        return progress

    return run_and_cancel


@pytest.fixture(scope="session")
def assert_same_images() -> Callable[[np.ndarray, np.ndarray], None]:
    """Asserts what this project calls the same picture: at most 1 level apart, in at most 0.1 % of the values."""

    def check(left: np.ndarray, right: np.ndarray) -> None:
        assert left.shape == right.shape
        difference = np.abs(left.astype(int) - right.astype(int))
        assert difference.max() <= 1
        assert (difference > 0).mean() <= 1e-3

    return check
