"""Models of classes: the pictures of `generate(classes=, cfg=)` from our samplers, and the host's own among them."""

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from class_models import GUIDED, write_class_file
from failures import expect_failure

import ldm_backend
from ldm_backend.config.conditioning import ClassConfig
from ldm_backend.networks.conditioned import Attending
from ldm_backend.pipeline import evaluation, sample_latents
from ldm_backend.sampling.samplers import sample_seeds

Model = ldm_backend.LatentDiffusion
SIDE = 32  # pixels, of the training
RUN: dict[str, Any] = {"steps": 4, "sampler": "ddim", "grid": "trailing"}


def load(graph: Any, name: str = "guided") -> Any:
    return graph.checkpoint(f"{name}.safetensors")


def noise(graph: Any, loader: Any, batch: int = 1, seed: int = 3) -> Any:
    size = {"width": SIDE, "height": SIDE, "batch_size": batch}
    return graph.add("LDMLatentNoise", seed=seed, model=loader[0], **size)


def empty(graph: Any, loader: Any, batch: int = 1) -> Any:
    return graph.add("LDMEmptyLatent", width=SIDE, height=SIDE, batch_size=batch, model=loader[0])


def single(graph: Any, loader: Any, latent: Any, **inputs: Any) -> Any:
    """LDM Sampler with RUN."""
    return graph.add("LDMSampler", model=loader[0], latent=latent[0], **RUN | inputs)


def custom(graph: Any, loader: Any, latent: Any, guider: Any, seed: int = 3, **sampler: Any) -> Any:
    """SamplerCustomAdvanced with RUN."""
    return graph.add(
        "SamplerCustomAdvanced",
        noise=graph.add("LDMNoise", seed=seed)[0],
        guider=guider[0],
        sampler=graph.add("LDMSamplerSelect", **{"sampler": "ddim", "eta": 0.0} | sampler)[0],
        sigmas=graph.add("LDMSigmas", model=loader[0], steps=4, grid="trailing", strength=1.0)[0],
        latent_image=latent[0],
    )


def cfg_guider(graph: Any, loader: Any, positive: Any, negative: Any, cfg: float) -> Any:
    return graph.add("CFGGuider", model=loader[0], positive=positive[0], negative=negative[0], cfg=cfg)


def ksampler(graph: Any, loader: Any, positive: Any, negative: Any, cfg: float = 3.0, **settings: Any) -> Any:
    given = {"seed": 3, "steps": 4, "sampler_name": "ddim", "scheduler": "ddim_uniform", "denoise": 1.0}
    latent = settings.pop("latent", None) or noise(graph, loader)
    return graph.add(
        "KSampler", model=loader[0], positive=positive[0], negative=negative[0], cfg=cfg, latent_image=latent[0],
        **given | settings,
    )  # fmt: skip


@pytest.mark.parametrize("cfg", [1.0, 3.0, 0.0, -1.5])
@pytest.mark.parametrize(("sampler", "eta"), [("ddim", 0.0), ("dpmpp_2m_sde", 0.0), ("unipc", 0.0)])
def test_latents_of_the_single_node(graph, save_latent, classes, sampler, eta, cfg):
    """To the bit, with a class for each image, and no class among them."""
    loader = load(graph)
    wires = {"positive": graph.of_class(loader, "4,none,0")[0], "cfg": cfg}
    made = save_latent(graph, single(graph, loader, noise(graph, loader, 3), sampler=sampler, **wires))
    run = RUN | {"sampler": sampler, "eta": eta}
    assert torch.equal(made, sample_latents(classes["guided"], [3, 4, 5], classes=[4, None, 0], cfg=cfg, **run))


def test_the_exact_sampler_too(graph, save_latent, classes):
    """LDM DDIM Sampler, with noise in its steps, and negative connected."""
    loader = load(graph)
    wires = {"positive": graph.of_class(loader, "4")[0], "negative": graph.of_class(loader, "none")[0], "cfg": 2.5}
    sampled = graph.add(
        "LDMDDIMSampler", model=loader[0], latent=noise(graph, loader, 2)[0], steps=4, eta=0.7, grid="trailing", **wires
    )
    expected = sample_latents(classes["guided"], [3, 4], classes=[4, 4], cfg=2.5, **RUN, eta=0.7)
    assert torch.equal(save_latent(graph, sampled), expected)


@pytest.mark.parametrize("cfg", [1.0, 3.0])
def test_our_sampler_among_the_hosts_parts(graph, save_latent, classes, cfg):
    """SamplerCustomAdvanced with CFGGuider, our sampler, sigmas and noise; and with BasicGuider where cfg is 1."""
    loader = load(graph)
    positive, negative = graph.of_class(loader, "0,4"), graph.of_class(loader, "none")
    guiders = [cfg_guider(graph, loader, positive, negative, cfg)]
    guiders += [graph.add("BasicGuider", model=loader[0], conditioning=positive[0])] if cfg == 1 else []
    expected = sample_latents(classes["guided"], [3, 4], classes=[0, 4], cfg=cfg, **RUN, eta=0.5)
    for guider in guiders:
        made = custom(graph, loader, empty(graph, loader, 2), guider, eta=0.5)
        assert torch.equal(save_latent(graph, made), expected)


def test_an_image_is_that_of_its_own_seed_and_class(graph, save_latent, classes):
    """Whatever stands beside it. Sums in another order: 1e-4, as in test_solvers.py."""
    loader = load(graph)
    three = graph.of_class(loader, "2,none,0")
    together = save_latent(graph, single(graph, loader, noise(graph, loader, 3), positive=three[0], cfg=3.0))
    for image, name in enumerate(["2", "none", "0"]):
        latent = noise(graph, loader, 1, 3 + image)
        alone = save_latent(graph, single(graph, loader, latent, positive=graph.of_class(loader, name)[0], cfg=3.0))
        torch.testing.assert_close(together[image], alone[0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("cfg", [1.0, 3.0])
def test_the_hosts_sampler_is_near(graph, save_latent, classes, cfg):
    """KSampler's ddim from the same noise; its first noise level is not quite that of x_T."""
    loader = load(graph)
    positive, negative = graph.of_class(loader, "4"), graph.of_class(loader, "none")
    made = save_latent(graph, ksampler(graph, loader, positive, negative, cfg, latent=empty(graph, loader)))
    expected = sample_latents(
        classes["guided"], [3], classes=[4], cfg=cfg, steps=4, sampler="ddim", grid="compvis"
    )  # fmt: skip
    error = float((made - expected).norm() / expected.norm())
    assert error < 0.02, error


def between(model: Model, cfg: float, weight: float) -> torch.Tensor:
    """From classes 4 and 0, by the weight of the first."""
    assert model.conditioner is not None
    table: Any = model.conditioner
    with torch.no_grad():
        context = weight * table([4]) + (1 - weight) * table([0])
        denoiser = Attending(evaluation(model), context, table([None]), cfg)
    shape = (3, SIDE // model.config.first_stage.downscale, SIDE // model.config.first_stage.downscale)
    return sample_seeds("ddim", denoiser, [3], shape, model.schedule, 4, device=model.device, grid="trailing", eta=0.0)


@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0])
def test_the_average_of_two_classes(graph, save_latent, classes, weight):
    """ConditioningAverage: what is between their vectors; its sums are rounded otherwise."""
    loader = load(graph)
    average = graph.add(
        "ConditioningAverage", conditioning_to_strength=weight,
        conditioning_to=graph.of_class(loader, "4")[0], conditioning_from=graph.of_class(loader, "0")[0],
    )  # fmt: skip
    made = save_latent(graph, single(graph, loader, noise(graph, loader), positive=average[0], cfg=3.0))
    expected = between(classes["guided"], 3.0, weight)
    torch.testing.assert_close(made, expected, rtol=1e-4, atol=1e-4)
    if weight in (0.0, 1.0):
        assert torch.equal(made, sample_latents(classes["guided"], [3], classes=[4 if weight else 0], cfg=3.0, **RUN))


def test_combined_and_timed(graph, save_latent, classes):
    """Through the host's evaluation: a class for the first steps and another for the rest, which changes pictures."""
    loader = load(graph)
    first, second = (
        graph.add("ConditioningSetTimestepRange", conditioning=graph.of_class(loader, number)[0], start=start, end=end)
        for number, start, end in (("4", 0.0, 0.5), ("0", 0.5, 1.0))
    )
    combined = graph.add("ConditioningCombine", conditioning_1=first[0], conditioning_2=second[0])
    same = graph.add("ConditioningCombine", conditioning_1=graph.of_class(loader, "4")[0],
                     conditioning_2=graph.of_class(loader, "4")[0])  # fmt: skip
    latent = noise(graph, loader)
    made = save_latent(graph, single(graph, loader, latent, positive=combined[0], cfg=3.0))
    twice = save_latent(graph, single(graph, loader, latent, positive=same[0], cfg=3.0))
    pure = [sample_latents(classes["guided"], [3], classes=[one], cfg=3.0, **RUN) for one in (4, 0)]
    torch.testing.assert_close(twice, pure[0], rtol=1e-3, atol=1e-3)  # the detour through sigmas, times cfg
    assert all(float((made - one).abs().max()) > 1e-2 for one in pure)


def test_a_patch_of_the_model_counts(graph, save_latent, classes):
    """RescaleCFG corrects what cfg makes: through the host's evaluation in LDM Sampler as in SamplerCustomAdvanced."""
    loader = load(graph)
    patched = graph.add("RescaleCFG", model=loader[0], multiplier=0.7)
    positive, negative = graph.of_class(loader, "4"), graph.of_class(loader, "none")
    wires = {"positive": positive[0], "negative": negative[0], "cfg": 5.0}
    made = save_latent(graph, single(graph, patched, noise(graph, loader), **wires))
    parts = custom(graph, patched, empty(graph, loader), cfg_guider(graph, patched, positive, negative, 5.0))
    torch.testing.assert_close(made, save_latent(graph, parts), rtol=1e-4, atol=1e-4)
    plain = sample_latents(classes["guided"], [3], classes=[4], cfg=5.0, **RUN)
    assert float((made - plain).abs().max()) > 1e-2


@pytest.mark.parametrize(
    ("chosen", "number"),
    [({"class_name": "207 golden retriever"}, 207), ({"class_name": "none"}, None),
     ({"classes": "goldfish"}, 1), ({"classes": " Tench "}, 0), ({"classes": "999"}, 999)],
)  # fmt: skip
def test_names(graph, save_latent, classes, chosen, number):
    """A model of 1000 classes is one of ImageNet."""
    loader = load(graph, "imagenet")
    chosen = {"class_name": "none", "classes": ""} | chosen
    made = save_latent(
        graph, single(graph, loader, noise(graph, loader), positive=graph.add("LDMClass", model=loader[0], **chosen)[0])
    )
    assert torch.equal(made, sample_latents(classes["imagenet"], [3], classes=[number], **RUN))


def test_a_model_without_a_class_that_is_none(graph, save_latent, classes):
    """cfg 1, or away from another class."""
    loader = load(graph, "unguided")
    plain = single(graph, loader, noise(graph, loader), positive=graph.of_class(loader, "2")[0])
    assert torch.equal(save_latent(graph, plain), sample_latents(classes["unguided"], [3], classes=[2], **RUN))
    wires = {"positive": graph.of_class(loader, "2")[0], "negative": graph.of_class(loader, "1")[0], "cfg": 2.0}
    away = save_latent(graph, single(graph, loader, noise(graph, loader), **wires))
    assert not torch.equal(away, sample_latents(classes["unguided"], [3], classes=[2], **RUN))


def test_saved_and_loaded_again(graph, client, host, models, save_latent, classes):
    """LDM Checkpoint Save writes the table too; LDM Model Info tells the classes."""
    loader = load(graph)
    graph.add("LDMCheckpointSave", model=loader[0], vae=loader[1], filename_prefix="classes/saved", dtype="fp32")
    info = graph.add("LDMModelInfo", model=loader[0])
    prompt_id = client.submit(graph.prompt)
    client.follow(prompt_id)
    entry = client.history(prompt_id)
    assert '"n_classes": 6' in entry["outputs"][info.id]["text"][0]
    (file,) = (host.base_directory / "output" / "classes").glob("saved*.safetensors")
    file.rename(models / "again.safetensors")
    again = type(graph)()
    loader = again.checkpoint("again.safetensors")
    made = save_latent(
        again, single(again, loader, noise(again, loader), positive=again.of_class(loader, "3")[0], cfg=2.0)
    )  # fmt: skip
    assert torch.equal(made, sample_latents(classes["guided"], [3], classes=[3], cfg=2.0, **RUN))


KSAMPLER, SAMPLER = "KSampler", "LDMSampler"


# What is wrong: positive, which node says so, and what it says.
WRONG: dict[str, tuple[Callable[[Any, Any], Any], str]] = {
    "nothing": (lambda graph, _: graph.add("LDMEmptyConditioning"), "The conditioning is empty.*Connect LDM Class"),
    "another number of images": (lambda graph, loader: graph.of_class(loader, "1,2,3"), "for 3 images.*latent holds 2"),
    "another model's": (
        lambda graph, loader: graph.of_class(wide(graph), "1"), r"shape \(1, 1, 20\).*\(images, tokens, 12\)",
    ),
}  # fmt: skip


def wide(graph: Any) -> Any:
    return graph.checkpoint("wide.safetensors")


@pytest.fixture(scope="module")
def wider(models: Path) -> None:
    """A model whose classes are vectors of another width."""
    conditioning = ClassConfig(n_classes=6, embed_dim=20)
    unet = replace(GUIDED.unet, cross_attention_dim=20)
    write_class_file(models / "wide.safetensors", replace(GUIDED, unet=unet, conditioning=conditioning))


@pytest.mark.usefixtures("classes", "wider")
@pytest.mark.parametrize("node", [KSAMPLER, SAMPLER, "SamplerCustomAdvanced"])
@pytest.mark.parametrize("name", WRONG)
def test_what_is_refused(graph, client, node, name):
    """Before the first step, wherever it is drawn."""
    make, message = WRONG[name]
    loader = load(graph)
    positive, negative = make(graph, loader), graph.of_class(loader, "none")
    if node == KSAMPLER:
        drawn = ksampler(graph, loader, positive, negative, latent=empty(graph, loader, 2))
    elif node == SAMPLER:
        wires = {"positive": positive[0], "negative": negative[0], "cfg": 2.0}
        drawn = single(graph, loader, noise(graph, loader, 2), **wires)
    else:
        guider = cfg_guider(graph, loader, positive, negative, 2.0)
        drawn = custom(graph, loader, empty(graph, loader, 2), guider)
    graph.save(graph.add("LDMVQDecode", vae=loader[1], latent=drawn[0]))
    assert re.search(message, found := expect_failure(client, graph, node)), found


OPEN: dict[str, tuple[str, dict[str, Any], str]] = {
    "no positive": ("guided", {"cfg": 1.0}, "The conditioning is empty.*Connect LDM Class"),
    "no class that is none": ("unguided", {"cfg": 2.0, "positive": "1"}, "negative is open.*no class that is none"),
    "a class that is not there": ("guided", {"positive": "5"}, "classes: There is no class 5; expected .* 0 to 4"),
    "a class below 0": ("guided", {"positive": "-1"}, "classes: '-1' is no class. Write numbers, 0 to 4 or none"),
    "a long number": ("guided", {"positive": "9" * 4000}, "classes: '9999.* is no class"),
    "a name": ("guided", {"positive": "goldfish"}, "'goldfish' is no class"),
    "a name that is none": ("imagenet", {"positive": "0,goldfisch"}, "'goldfisch' is no class.*names of ImageNet"),
    "none where there is none": ("unguided", {"positive": "none"}, "classes: There is no class None"),
    "nothing between commas": ("guided", {"positive": "1,,2"}, "'' is no class"),
}


@pytest.mark.usefixtures("classes")
@pytest.mark.parametrize("name", OPEN)
def test_what_is_missing_or_no_class_is_refused(graph, client, name):
    model, wires, message = OPEN[name]
    loader = load(graph, model)
    if "positive" in wires:
        wires = wires | {"positive": graph.of_class(loader, wires["positive"])[0]}
    drawn = single(graph, loader, noise(graph, loader), **wires)
    graph.save(graph.add("LDMVQDecode", vae=loader[1], latent=drawn[0]))
    node = "LDMClass" if " class" in message.partition(";")[0] and "open" not in message and "positive" in wires else ""
    assert re.search(message, found := expect_failure(client, graph, node or SAMPLER)), found


@pytest.mark.usefixtures("classes")
def test_a_class_of_imagenet_for_other_data_is_refused(graph, client):
    loader = load(graph)
    positive = graph.add("LDMClass", model=loader[0], class_name="207 golden retriever", classes="")
    drawn = single(graph, loader, noise(graph, loader), positive=positive[0])
    graph.save(graph.add("LDMVQDecode", vae=loader[1], latent=drawn[0]))
    assert "knows 5 classes of other data" in expect_failure(client, graph, "LDMClass")


@pytest.mark.usefixtures("classes")
@pytest.mark.parametrize("wires", [{"positive": True}, {"negative": True}, {"cfg": 2.0}])
def test_an_unconditional_model_takes_none_of_it(graph, client, wires):
    loader, plain = load(graph), graph.checkpoint()
    made = graph.of_class(loader, "1")
    wires = {name: made[0] if value is True else value for name, value in wires.items()}
    drawn = single(graph, plain, graph.noise(), **wires)
    graph.save(graph.add("LDMVQDecode", vae=plain[1], latent=drawn[0]))
    assert "takes no conditioning" in expect_failure(client, graph, SAMPLER)


@pytest.mark.usefixtures("classes")
def test_classes_are_refused_by_native_samplers_of_other_models(graph, client):
    loader, plain = load(graph), graph.checkpoint()
    made = graph.of_class(loader, "1")
    drawn = ksampler(graph, plain, made, made, latent=graph.empty())
    graph.save(graph.add("LDMVQDecode", vae=plain[1], latent=drawn[0]))
    assert "one for class-conditional" in expect_failure(client, graph, KSAMPLER)


@pytest.mark.usefixtures("classes")
def test_the_cache_is_refused(graph, client):
    loader = load(graph)
    drawn = graph.add(
        "LDMDDIMSampler", model=loader[0], latent=noise(graph, loader)[0], steps=4, eta=0.0, grid="leading",
        cache_interval=2, positive=graph.of_class(loader, "1")[0],
    )  # fmt: skip
    graph.save(graph.add("LDMVQDecode", vae=loader[1], latent=drawn[0]))
    assert "cache_interval is above 1" in expect_failure(client, graph, "LDMDDIMSampler")
