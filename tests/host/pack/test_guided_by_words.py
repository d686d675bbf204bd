"""LDM Guided with a model of classes or texts: guides beside what its UNet attends to, without cfg."""

from typing import Any

import numpy as np
import pytest
import torch
from failures import expect_failure
from text_models import load_texts

import ldm_backend
from ldm_backend.contexts import encode_texts
from ldm_backend.guidance.guided import Guides
from ldm_backend.guidance.guides import Guide, LossGradient, Projection, ScoreGradient
from ldm_backend.guidance.losses import MeanColour
from ldm_backend.guidance.measurements import LowResolution
from ldm_backend.networks.conditioned import Attending
from ldm_backend.pipeline import evaluation
from ldm_backend.sampling.samplers import sample_seeds
from ldm_headless import ComfyClient

Model = ldm_backend.LatentDiffusion
SIDE = 32  # pixels, of the training
SMALL = np.random.default_rng(7).integers(0, 256, (SIDE // 4, SIDE // 4, 3), dtype=np.uint8)
WARM = (0xC0 / 255, 0x80 / 255, 0x60 / 255)
PROMPT = "a smiling woman with red hair"
GUIDES = {
    "loss": LossGradient(MeanColour(WARM)),
    "score": ScoreGradient(MeanColour(WARM)),
    "projection": Projection(LowResolution(SMALL[None], 4)),
}


@pytest.fixture(scope="module")
def texts(models: Any) -> Model:
    """A tiny model of texts, in the host as "guided-texts", and loaded here."""
    return load_texts(models / "guided-texts")


def class_wires(graph: Any, numbers: str) -> dict[str, Any]:
    loader = graph.checkpoint("guided.safetensors")
    return {"model": loader[0], "vae": loader[1], "positive": graph.of_class(loader, numbers)[0]}


def text_wires(graph: Any) -> dict[str, Any]:
    loader = graph.checkpoint("guided-texts")
    positive = graph.add("CLIPTextEncode", clip=loader[2], text=PROMPT)
    return {"model": loader[0], "vae": loader[1], "positive": positive[0]}


def guide(graph: Any, name: str) -> Any:
    common = {"start": 0.0, "end": 1.0, "every_nth": 1}
    if name == "projection":
        given = {"noise": 0.0, "strength": 1.0, "codec": "network", "factor": 4, "filter": "box"}
        image = graph.add("LoadImage", image="guide-words.png")
        return graph.add("LDMGuideLowResolution", image=image[0], **given, **common)
    given = {"strength": 0.3, "method": name, "inner": 1, "colours": "#c08060", "aim": "mean"}
    return graph.add("LDMGuideColour", **given, **common)


def sampled(graph: Any, wires: dict[str, Any], name: str, batch: int, sampler: Any = None) -> Any:
    """SamplerCustomAdvanced with LDM Guided."""
    size = {"width": SIDE, "height": SIDE, "batch_size": batch}
    guider = graph.add("LDMGuided", guides=guide(graph, name)[0], **wires)
    return graph.add(
        "SamplerCustomAdvanced",
        noise=graph.add("LDMNoise", seed=3)[0],
        guider=guider[0],
        sampler=(sampler or graph.add("LDMSamplerSelect", sampler="ddim", eta=1.0))[0],
        sigmas=graph.add("LDMSigmas", model=wires["model"], steps=4, grid="trailing", strength=1.0)[0],
        latent_image=graph.add("LDMEmptyLatent", model=wires["model"], **size)[0],
    )


@torch.no_grad()
def expected(model: Model, context: torch.Tensor, one: Guide | None) -> torch.Tensor:
    """The latents of seeds from 3 on, one for each context."""
    denoiser: Any = Attending(evaluation(model), context, None, 1.0)
    side = SIDE // model.config.first_stage.downscale
    shape = (3, side, side)
    if one is not None:
        denoiser = Guides(one)(model, denoiser, (len(context), *shape))
    seeds = range(3, 3 + len(context))
    return sample_seeds("ddim", denoiser, seeds, shape, model.schedule, 4, device=model.device, grid="trailing", eta=1)


def table(model: Model) -> Any:
    return model.conditioner


@pytest.mark.parametrize("name", ["loss", "projection"])
def test_two_classes_in_a_batch(graph, save_latent, classes, put_picture, name):
    """To the bit what the backend's guides make of the UNet that attends to them; and the guide changes it."""
    put_picture("guide-words.png", SMALL)
    made = save_latent(graph, sampled(graph, class_wires(graph, "4,0"), name, 2))
    model = classes["guided"]
    context = table(model)([4, 0]).detach()
    assert torch.equal(made, expected(model, context, GUIDES[name]))
    assert not torch.allclose(made, expected(model, context, None), atol=1e-3)
    assert not torch.allclose(made, expected(model, table(model)([0, 4]).detach(), GUIDES[name]), atol=1e-3)


@pytest.mark.parametrize("name", GUIDES)
def test_a_text(graph, save_latent, texts, put_picture, name):
    put_picture("guide-words.png", SMALL)
    made = save_latent(graph, sampled(graph, text_wires(graph), name, 1))
    assert texts.tokeniser is not None
    context = encode_texts(texts.conditioner, texts.tokeniser, [PROMPT])
    assert torch.equal(made, expected(texts, context, GUIDES[name]))
    assert not torch.allclose(made, expected(texts, context, None), atol=1e-3)


def test_a_score_of_one_class(graph, save_latent, classes):
    made = save_latent(graph, sampled(graph, class_wires(graph, "4"), "score", 1))
    assert torch.equal(made, expected(classes["guided"], table(classes["guided"])([4]).detach(), GUIDES["score"]))


@pytest.mark.usefixtures("classes")
def test_a_score_of_several_is_refused(graph, client: ComfyClient):
    graph.add("SaveLatent", samples=sampled(graph, class_wires(graph, "4,0"), "score", 2)[0], filename_prefix="x")
    assert "takes the 2 pictures of the batch one by one" in expect_failure(client, graph, "SamplerCustomAdvanced")


@pytest.mark.usefixtures("classes")
def test_a_sampler_of_the_host(graph, save_latent):
    """Through the noise levels of the host, too, each picture is of its class."""
    euler = graph.add("KSamplerSelect", sampler_name="euler")
    made, other = (
        save_latent(graph, sampled(graph, class_wires(graph, numbers), "loss", 1, euler)) for numbers in ("4", "0")
    )
    assert bool(made.isfinite().all())
    assert not torch.allclose(made, other, atol=1e-3)


@pytest.mark.usefixtures("classes")
def test_no_conditioning_is_refused(graph, client: ComfyClient):
    wires = class_wires(graph, "4")
    del wires["positive"]
    graph.add("SaveLatent", samples=sampled(graph, wires, "loss", 1)[0], filename_prefix="x")
    assert "LDM Class" in expect_failure(client, graph, "LDMGuided")
