"""Models of texts: the native CLIP of the loader, and the pictures of `generate(prompts=, negative=, cfg=)`."""

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from failures import expect_failure
from text_models import OWN, checkpoint_of, load_texts

import ldm_backend
from ldm_backend.checkpoints.conversion import convert_to_folder
from ldm_backend.config.model import KLConfig
from ldm_backend.contexts import encode_texts
from ldm_backend.networks.conditioned import Attending
from ldm_backend.pipeline import evaluation, sample_latents
from ldm_backend.sampling.samplers import sample_seeds
from ldm_headless import ComfyClient

SIDE = 32  # pixels, of the training
RUN: dict[str, Any] = {"steps": 4, "sampler": "ddim", "grid": "trailing"}
PROMPT, NEGATIVE = "a smiling woman with red hair", "glasses"


@pytest.fixture(scope="module")
def texts(models: Path) -> ldm_backend.LatentDiffusion:
    """A tiny model with a vocabulary of its own, in the host as "texts", and loaded here."""
    return load_texts(models / "texts")


def encoded(graph: Any, loader: Any, text: str) -> Any:
    return graph.add("CLIPTextEncode", clip=loader[2], text=text)


def single(graph: Any, loader: Any, positive: Any, negative: Any = None, cfg: float = 1.0, **inputs: Any) -> Any:
    """LDM Sampler from seed 3."""
    latent = graph.add("LDMLatentNoise", seed=3, width=SIDE, height=SIDE, batch_size=1, model=loader[0])
    wires = {"positive": positive[0]} | ({} if negative is None else {"negative": negative[0]})
    return graph.add("LDMSampler", model=loader[0], latent=latent[0], cfg=cfg, **wires, **RUN | inputs)


def custom(graph: Any, loader: Any, positive: Any, negative: Any, cfg: float) -> Any:
    wires = {"positive": positive[0], "negative": negative[0], "cfg": cfg}
    return graph.add(
        "SamplerCustomAdvanced",
        noise=graph.add("LDMNoise", seed=3)[0],
        guider=graph.add("CFGGuider", model=loader[0], **wires)[0],
        sampler=graph.add("LDMSamplerSelect", sampler="ddim", eta=0.0)[0],
        sigmas=graph.add("LDMSigmas", model=loader[0], steps=4, grid="trailing", strength=1.0)[0],
        latent_image=graph.add("LDMEmptyLatent", width=SIDE, height=SIDE, batch_size=1, model=loader[0])[0],
    )


def close(made: torch.Tensor, expected: torch.Tensor) -> None:
    """The same but for sums in another order: texts are encoded one by one here, and together there."""
    torch.testing.assert_close(made, expected, rtol=1e-4, atol=1e-4)


def attending(model: ldm_backend.LatentDiffusion, context: torch.Tensor, cfg: float) -> Attending:
    """Guided away from the empty text."""
    return Attending(evaluation(model), context, context_of(model, ""), cfg)


@torch.no_grad()
def drawn_by(model: ldm_backend.LatentDiffusion, denoiser: Any) -> torch.Tensor:
    """The latent of seed 3."""
    side = SIDE // model.config.first_stage.downscale
    shape = (3, side, side)
    return sample_seeds("ddim", denoiser, [3], shape, model.schedule, 4, device=model.device, grid="trailing", eta=0.0)


def of_context(model: ldm_backend.LatentDiffusion, context: torch.Tensor, cfg: float) -> torch.Tensor:
    """The latent of what is attended to."""
    return drawn_by(model, attending(model, context, cfg))


def context_of(model: ldm_backend.LatentDiffusion, text: str) -> torch.Tensor:
    encoder: Any = model.conditioner
    assert model.tokeniser is not None
    return encode_texts(encoder, model.tokeniser, [text])


@pytest.mark.parametrize("cfg", [1.0, 5.0])
def test_latents_of_the_backend(graph, save_latent, texts, cfg):
    """LDM Sampler, and our sampler in SamplerCustomAdvanced with CFGGuider."""
    loader = graph.checkpoint("texts")
    positive, negative = encoded(graph, loader, PROMPT), encoded(graph, loader, NEGATIVE)
    expected = sample_latents(texts, [3], prompts=PROMPT, negative=NEGATIVE, cfg=cfg, **RUN)
    close(save_latent(graph, single(graph, loader, positive, negative, cfg)), expected)
    close(save_latent(graph, custom(graph, loader, positive, negative, cfg)), expected)
    other = sample_latents(texts, [3], prompts="the man", negative=NEGATIVE, cfg=cfg, **RUN)
    assert float((other - expected).abs().max()) > 1e-2


def test_the_hosts_sampler_is_near(graph, save_latent, texts):
    """KSampler's ddim; its first noise level is not quite that of x_T."""
    loader = graph.checkpoint("texts")
    latent = graph.add("LDMEmptyLatent", width=SIDE, height=SIDE, batch_size=1, model=loader[0])
    made = graph.add(
        "KSampler", model=loader[0], positive=encoded(graph, loader, PROMPT)[0], latent_image=latent[0], cfg=5.0,
        negative=encoded(graph, loader, "")[0], seed=3, steps=4, sampler_name="ddim", scheduler="ddim_uniform",
        denoise=1.0,
    )  # fmt: skip
    run = {"steps": 4, "sampler": "ddim", "grid": "compvis"}
    expected = sample_latents(texts, [3], prompts=PROMPT, cfg=5.0, **run)
    error = float((save_latent(graph, made) - expected).norm() / expected.norm())
    assert error < 0.02, error


def test_averaged_combined_and_timed(graph, save_latent, texts):
    """Between two texts, by the weight of the first; and one text for the first step, another for the rest."""
    loader = graph.checkpoint("texts")
    first, second, nothing = (encoded(graph, loader, text) for text in (PROMPT, "the man", ""))
    average = graph.add(
        "ConditioningAverage", conditioning_to=first[0], conditioning_from=second[0], conditioning_to_strength=0.3
    )
    context = 0.3 * context_of(texts, PROMPT) + 0.7 * context_of(texts, "the man")
    close(save_latent(graph, single(graph, loader, average, nothing, 3.0)), of_context(texts, context, 3.0))
    timed = [
        graph.add("ConditioningSetTimestepRange", conditioning=one[0], start=start, end=end)
        for one, start, end in ((first, 0.0, 0.1), (second, 0.1, 1.0))
    ]
    combined = graph.add("ConditioningCombine", conditioning_1=timed[0][0], conditioning_2=timed[1][0])
    made = save_latent(graph, single(graph, loader, combined, nothing, 3.0))
    early, late = (attending(texts, context_of(texts, text), 3.0) for text in (PROMPT, "the man"))
    expected = drawn_by(texts, lambda x_t, t: early(x_t, t) if t > 900 else late(x_t, t))
    # Numbers of some hundred, through the host's noise levels; what one text draws alone is 0.017 and 2.5 away.
    torch.testing.assert_close(made, expected, rtol=0, atol=2e-3)


# A prompt, the text that it is without weights, and the weight of its words.
WEIGHTS = {
    "a (smiling:1.5) woman": ("a smiling woman", {2: 1.5}),
    "a (smiling) ((woman))": ("a smiling woman", {2: 1.1, 3: 1.1 * 1.1}),
    "a (smiling woman:0)": ("a smiling woman", {2: 0.0, 3: 0.0}),
    "a (red:0.5)dish": ("a reddish", {2: 0.5}),
    "a \\(smiling\\) woman": ("a (smiling) woman", {}),
    "a (woman": ("a (woman", {}),
}


@pytest.mark.parametrize("prompt", WEIGHTS)
def test_weights_in_a_prompt(graph, save_latent, texts, prompt):
    """As the host's encoders read them: from the empty text at the same place to the word, and beyond."""
    text, weights = WEIGHTS[prompt]
    empty, context = context_of(texts, ""), context_of(texts, text)
    for place, weight in weights.items():
        context[:, place] = empty[:, place] + weight * (context[:, place] - empty[:, place])
    loader = graph.checkpoint("texts")
    made = save_latent(graph, single(graph, loader, encoded(graph, loader, prompt), encoded(graph, loader, ""), 3.0))
    close(made, of_context(texts, context, 3.0))


def test_a_long_prompt_is_cut(graph, save_latent, texts):
    """To what the model takes; the log says so."""
    long = " ".join(["smiling"] * 100)
    loader = graph.checkpoint("texts")
    made = save_latent(graph, single(graph, loader, encoded(graph, loader, f"{long} woman")))
    close(made, sample_latents(texts, [3], prompts=long, **RUN))


def test_a_picture_of_a_kl_first_stage(graph, run, models, assert_same_images):
    """VAE Decode of the host and LDM VQ Decode, with the scale of text2img-large."""
    stage = OWN.first_stage
    kl = KLConfig(
        latent_channels=3, sample_size=stage.sample_size, block_out_channels=stage.block_out_channels,
        layers_per_block=1, norm_num_groups=stage.norm_num_groups, scale_factor=0.18215,
    )  # fmt: skip
    convert_to_folder(checkpoint_of(replace(OWN, first_stage=kl)), models / "kl-texts")
    model = ldm_backend.load(models / "kl-texts", "cpu")
    expected = ldm_backend.generate(model, [3], prompts=PROMPT, cfg=5.0, **RUN)
    loader = graph.checkpoint("kl-texts")
    sampled = single(graph, loader, encoded(graph, loader, PROMPT), encoded(graph, loader, ""), 5.0)
    saved = [
        graph.save(graph.add("VAEDecode", vae=loader[1], samples=sampled[0])),
        graph.save(graph.add("LDMVQDecode", vae=loader[1], latent=sampled[0])),
    ]
    found = run(graph)
    for one in saved:
        assert_same_images(found[one.id], expected)


def test_saved_and_loaded_again(graph, client: ComfyClient, host, models, save_latent, texts):
    """LDM Checkpoint Save writes the encoder and its words."""
    loader = graph.checkpoint("texts")
    wires = {"model": loader[0], "vae": loader[1], "clip": loader[2]}
    graph.add("LDMCheckpointSave", **wires, filename_prefix="texts/saved", dtype="fp32")
    client.follow(client.submit(graph.prompt))
    (file,) = (host.base_directory / "output" / "texts").glob("saved*.safetensors")
    file.rename(models / "texts-again.safetensors")
    again = type(graph)()
    loader = again.checkpoint("texts-again.safetensors")
    made = save_latent(again, single(again, loader, encoded(again, loader, PROMPT), encoded(again, loader, ""), 2.0))
    close(made, sample_latents(texts, [3], prompts=PROMPT, cfg=2.0, **RUN))


@pytest.mark.usefixtures("texts")
def test_a_clone_of_the_clip(graph, save_latent):
    """As nodes make one, here CLIP Set Last Layer with the last layer: the same text encoder."""
    loader = graph.checkpoint("texts")
    layer = graph.add("CLIPSetLastLayer", clip=loader[2], stop_at_clip_layer=-1)
    made = [
        save_latent(graph, single(graph, loader, graph.add("CLIPTextEncode", clip=clip, text=PROMPT)))
        for clip in (loader[2], layer[0])
    ]
    assert torch.equal(*made)


WRONG: dict[str, tuple[Callable[[Any, Any], Any], str, str]] = {
    "another layer": (
        lambda graph, loader: graph.add(
            "CLIPTextEncode", text="a", clip=graph.add("CLIPSetLastLayer", clip=loader[2], stop_at_clip_layer=-2)[0]
        ), "CLIPTextEncode", "CLIP Set Last Layer asks for layer -2",
    ),
    "deep parentheses": (
        lambda graph, loader: encoded(graph, loader, "(" * 5000), "CLIPTextEncode", "parentheses 5000 deep",
    ),
    "a weight of nothing": (
        lambda graph, loader: encoded(graph, loader, "a (woman:nan)"), "CLIPTextEncode", "weight in the prompt is nan",
    ),
    "an endless text": (
        lambda graph, loader: encoded(graph, loader, "a " * 100_000), "CLIPTextEncode", "has 200000 characters",
    ),
    "classes": (
        lambda graph, loader: graph.of_class(graph.checkpoint("guided.safetensors"), "1"), "LDMSampler",
        "one for class-conditional.*MODEL is for texts.*CLIP Text Encode",
    ),
    "nothing": (
        lambda graph, loader: graph.add("LDMEmptyConditioning"), "LDMSampler", "The conditioning is empty.*Text Encode",
    ),
}  # fmt: skip


@pytest.mark.usefixtures("texts", "classes")
@pytest.mark.parametrize("name", WRONG)
def test_what_is_refused(graph, client: ComfyClient, name):
    make, node, message = WRONG[name]
    loader = graph.checkpoint("texts")
    drawn = single(graph, loader, make(graph, loader))
    graph.save(graph.add("LDMVQDecode", vae=loader[1], latent=drawn[0]))
    assert re.search(message, found := expect_failure(client, graph, node)), found


@pytest.mark.usefixtures("texts", "classes")
def test_texts_and_an_open_negative_are_refused(graph, client: ComfyClient):
    """A text for a model of classes; guidance that starts from nothing."""
    loader = graph.checkpoint("texts")
    positive = encoded(graph, loader, "a")
    graph.save(graph.add("LDMVQDecode", vae=loader[1], latent=single(graph, loader, positive, None, 2.0)[0]))
    assert "negative is open" in expect_failure(client, graph, "LDMSampler")
    graph = type(graph)()
    loader, other = graph.checkpoint("texts"), graph.checkpoint("guided.safetensors")
    drawn = single(graph, other, encoded(graph, loader, "a"))
    graph.save(graph.add("LDMVQDecode", vae=other[1], latent=drawn[0]))
    assert "one for text-conditional, and the MODEL is for classes" in expect_failure(client, graph, "LDMSampler")


@pytest.mark.usefixtures("texts")
@pytest.mark.parametrize(("name", "wired", "message"), [("texts", False, "clip is open"), ("tiny", True, "clip")])
def test_saving_needs_the_clip_of_the_model(graph, client: ComfyClient, name, wired, message):
    loader, texts = graph.checkpoint(name), graph.checkpoint("texts")
    wires = {"model": loader[0], "vae": loader[1]} | ({"clip": texts[2]} if wired else {})
    graph.add("LDMCheckpointSave", **wires, filename_prefix="texts/not", dtype="fp32")
    assert message in expect_failure(client, graph, "LDMCheckpointSave")
