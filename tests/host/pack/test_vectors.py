"""LDM CLIP Vectors with a tiny CLIP in the real host: the pictures of `generate(vectors=)`."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection
from vector_models import write_vector_file
from watched_host import __file__ as SUPPORT

import ldm_backend
from ldm_backend.pipeline import sample_latents
from ldm_headless import PACK_ROOT, find_host

SETTINGS: dict[str, Any] = {
    "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 32,
    "patch_size": 8, "projection_dim": 12, "hidden_act": "quick_gelu", "num_channels": 3,
}  # fmt: skip
RUN: dict[str, Any] = {"steps": 4, "sampler": "ddim", "cfg": 5.0}


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the host made, and "vectors" of transformers' own CLIP and the "model" here."""
    folder = tmp_path_factory.mktemp("vectors")
    (folder / "models").mkdir()
    (folder / "clip").mkdir()
    file = write_vector_file(folder / "models" / "vectors.safetensors")
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        # On a CPU the host keeps the weights of CLIP in half precision.
        clip = CLIPVisionModelWithProjection(CLIPVisionConfig(**SETTINGS)).eval().half().float()
        pictures = [torch.rand(2, 32, 32, 3).mul(255).round() / 255, torch.rand(1, 32, 32, 3).mul(255).round() / 255]
        mean, std = (
            torch.tensor(row) for row in ([0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711])
        )
        vectors = clip(pixel_values=((torch.cat(pictures) - mean) / std).movedim(-1, 1)).image_embeds
    torch.save(pictures, folder / "pictures.pt")
    weights = {key: tensor for key, tensor in clip.state_dict().items() if not key.endswith("position_ids")}
    save_file(weights, folder / "clip" / "model.safetensors")
    (folder / "clip" / "config.json").write_text(json.dumps(SETTINGS | {"model_type": "clip_vision_model"}))
    location, script = find_host(), Path(str(SUPPORT)).with_name("vector_run.py")
    command = [location.python, "-P", str(script), str(location.path), str(PACK_ROOT), str(folder)]
    done = subprocess.run(
        command, cwd=folder, env=os.environ | {"PYTHONDONTWRITEBYTECODE": "1"}, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr.decode()[-3000:]
    return torch.load(folder / "latents.pt") | {"vectors": vectors, "model": ldm_backend.load(file, "cpu")}


def test_vectors_are_those_of_clip_behind_its_projection(drawn):
    """Of length one, the chained ones first; the host's CLIP sums in another order."""
    expected = drawn["vectors"] / drawn["vectors"].norm(dim=1, keepdim=True)
    torch.testing.assert_close(drawn["context"], expected[None], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("negative", ["open", "connected"])
def test_latents_are_those_of_generate(drawn, negative):
    """To the bit, with the vectors that the host made."""
    expected = sample_latents(drawn["model"], [3, 4], vectors=drawn["context"][0], grid="trailing", **RUN)
    assert torch.equal(drawn[negative], expected)


def test_the_hosts_sampler_takes_them(drawn):
    expected = sample_latents(drawn["model"], [3], vectors=drawn["context"][0], grid="compvis", **RUN)
    error = float((drawn["native"][:1] - expected).norm() / expected.norm())
    assert error < 0.05, error


def test_other_vectors_are_refused_with_the_clip_that_is_needed(drawn):
    width, at_336, many, text = drawn["refusals"]
    assert "InputError: clip_vision_output: its vectors are 16 wide; expected 12. Take CLIP ViT-L/14" in width
    assert "is of CLIP ViT-L/14 at 336 pixels; expected that of 224" in at_336
    assert "vectors: 22 for an image; expected 1 to 21" in many
    assert "the conditioning of another node (a text, whose pooled output may lack CLIP's projection)" in text
