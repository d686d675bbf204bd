"""LDM Guided and the guides: the pictures of `generate(guides=...)`, among the samplers of this pack and the host's."""

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from failures import expect_failure

import ldm_backend
from ldm_backend.conditioning.low_resolution import low_resolution as low_resolution_channels
from ldm_backend.guidance.guided import Guides
from ldm_backend.guidance.guides import Guide, LossGradient, Projection, ScoreGradient
from ldm_backend.guidance.losses import MeanColour, Palette, Reference, Style
from ldm_backend.guidance.measurements import Blurred, GreyPicture, KnownPixels, LowResolution
from ldm_backend.pipeline import sample_latents
from ldm_backend.sampling.samplers import SAMPLERS

PROJECTION = {"noise": 0.0, "strength": 1.0, "start": 0.0, "end": 1.0, "every_nth": 1, "codec": "network"}
GRADIENT = {"strength": 0.3, "method": "loss", "inner": 1, "start": 0.0, "end": 1.0, "every_nth": 1}
SMALL = {"factor": 4, "filter": "box"}
PICTURE = np.random.default_rng(7).integers(0, 256, (64, 64, 3), dtype=np.uint8)
TINY_PICTURE = np.ascontiguousarray(PICTURE[:16, :16])
HOLE = np.zeros((64, 64), dtype=bool)
HOLE[16:40, 8:48] = True
SIGMA = 2.0


@pytest.fixture
def pictures(put_picture) -> None:
    """What guides are given, in the host's input folder."""
    put_picture("guide.png", PICTURE)
    put_picture("guide-small.png", TINY_PICTURE)
    put_picture("guide-hole.png", np.repeat(HOLE[..., None] * np.uint8(255), 3, axis=2))


def loaded(graph: Any, name: str = "guide.png") -> Any:
    return graph.add("LoadImage", image=name)[0]


def hole(graph: Any) -> Any:
    return graph.add("ImageToMask", image=loaded(graph, "guide-hole.png"), channel="red")[0]


def low_resolution(graph: Any, **more: Any) -> Any:
    settings = SMALL | PROJECTION | more
    return graph.add("LDMGuideLowResolution", image=loaded(graph, "guide-small.png"), **settings)


def colour(graph: Any, **more: Any) -> Any:
    return graph.add("LDMGuideColour", **({"colours": "#c08060", "aim": "mean"} | GRADIENT | more))


WARM = (0xC0 / 255, 0x80 / 255, 0x60 / 255)
# The node, and the same guides without a host.
GUIDES: dict[str, tuple[Callable[[Any], Any], Callable[[], list[Guide]]]] = {
    "low resolution": (low_resolution, lambda: [Projection(LowResolution(TINY_PICTURE[None], 4))]),
    "low resolution, linear, noisy": (
        lambda g: low_resolution(g, codec="linear", noise=0.1, filter="bicubic"),
        lambda: [Projection(LowResolution(TINY_PICTURE[None], 4, "bicubic", noise=0.1), codec="linear")],
    ),
    "known pixels": (
        lambda g: g.add("LDMGuideKnownPixels", image=loaded(g), mask=hole(g), **PROJECTION),
        lambda: [Projection(KnownPixels(PICTURE[None], HOLE))],
    ),
    "grey": (
        lambda g: g.add("LDMGuideGreyPicture", image=loaded(g), **PROJECTION | {"every_nth": 2, "end": 0.9}),
        lambda: [Projection(GreyPicture(PICTURE[None]), every=2, end=0.9)],
    ),
    "blurred": (
        lambda g: g.add("LDMGuideBlurredPicture", image=loaded(g), sigma=SIGMA, sharpening=5, **PROJECTION),
        lambda: [Projection(Blurred(PICTURE[None], SIGMA, 5))],
    ),
    "colour": (colour, lambda: [LossGradient(MeanColour(WARM))]),
    "palette, two moves": (
        lambda g: colour(g, colours="c08060 #000000", aim="palette", inner=2),
        lambda: [LossGradient(Palette([WARM, (0.0, 0.0, 0.0)]), inner=2)],
    ),
    "score": (lambda g: colour(g, method="score"), lambda: [ScoreGradient(MeanColour(WARM))]),
    "reference": (
        lambda g: g.add("LDMGuideReference", image=loaded(g), mask=hole(g), **GRADIENT),
        lambda: [LossGradient(Reference(PICTURE[None], HOLE))],
    ),
    "style": (
        lambda g: g.add("LDMGuideStyle", image=loaded(g), **GRADIENT | {"start": 0.3}),
        lambda: [LossGradient(Style(PICTURE[None]), start=0.3)],
    ),
    "a chain": (
        lambda g: colour(g, guides=low_resolution(g)[0]),
        lambda: [Projection(LowResolution(TINY_PICTURE[None], 4)), LossGradient(MeanColour(WARM))],
    ),
}


def guided(graph: Any, loader: Any, guides: Any, batch: int = 1, steps: int = 4, **parts: Any) -> Any:
    """SamplerCustomAdvanced with LDM Guided."""
    side = parts.pop("side", 64)
    guider = parts.pop("guider", None) or graph.add("LDMGuided", model=loader[0], vae=loader[1], guides=guides[0])
    given = {
        "noise": graph.add("LDMNoise", seed=3)[0],
        "guider": guider[0],
        "sampler": graph.add("LDMSamplerSelect", sampler="ddim", eta=1.0)[0],
        "sigmas": graph.add("LDMSigmas", model=loader[0], steps=steps, grid="trailing", strength=1.0)[0],
        "latent_image": graph.empty(batch, side, side)[0],
    }
    return graph.add("SamplerCustomAdvanced", **given | parts)


def decode(graph: Any, loader: Any, latent: Any) -> Any:
    return graph.save(graph.add("LDMVQDecode", vae=loader[1], latent=latent[0]))


RUN = {"steps": 4, "eta": 1.0, "grid": "trailing"}


@pytest.mark.usefixtures("pictures")
@pytest.mark.parametrize("name", GUIDES)
def test_latents_of_the_backend_to_the_bit(graph, tiny, save_latent, name):
    """Two images of a batch, each with its own seed; and not what is drawn without guides."""
    in_host, without_host = GUIDES[name]
    loader = graph.checkpoint()
    expected = sample_latents(tiny, [3, 4], **RUN, guides=Guides(*without_host()))
    assert torch.equal(save_latent(graph, guided(graph, loader, in_host(graph), batch=2)), expected)
    assert not torch.equal(expected, sample_latents(tiny, [3, 4], **RUN))


@pytest.mark.usefixtures("pictures")
@pytest.mark.parametrize("sampler", [name for name in SAMPLERS if name != "ddim"])
def test_every_sampler_of_the_pack(graph, tiny, save_latent, sampler):
    loader = graph.checkpoint()
    select = graph.add("LDMSamplerSelect", sampler=sampler, eta=0.0)
    made = save_latent(graph, guided(graph, loader, low_resolution(graph), sampler=select[0]))
    guides = Guides(*GUIDES["low resolution"][1]())
    assert torch.equal(made, sample_latents(tiny, [3], 4, sampler=sampler, grid="trailing", guides=guides))


def test_the_demo_restores_a_picture_of_itself(graph, run, assert_same_images):
    """As a user wires it: a portrait drawn, made small, and enlarged; the picture is that of `restore`."""
    loader = graph.checkpoint("portraits-128")
    drawn = graph.ddim(loader, graph.noise(5, width=128, height=128), steps=8, grid="trailing")
    portrait = graph.add("LDMVQDecode", vae=loader[1], latent=drawn[0])
    small = graph.add("ImageScale", image=portrait[0], upscale_method="area", width=32, height=32, crop="disabled")
    guide = graph.add("LDMGuideLowResolution", image=small[0], **SMALL, **PROJECTION)
    made = decode(graph, loader, guided(graph, loader, guide, side=128))
    seen, shown = graph.save(small), graph.save(graph.add("ImageInvert", image=guide[1]))
    result = run(graph)
    pixels = result[seen.id].repeat(4, 1).repeat(4, 2)
    assert np.abs(255 - result[shown.id].astype(int) - pixels).max() <= 1
    back = result[made.id].reshape(1, 32, 4, 32, 4, 3).mean((2, 4))
    assert np.abs(back - result[seen.id]).mean() < 6.0  # levels; the truth is of no more than 8 steps


@pytest.mark.usefixtures("pictures")
@pytest.mark.parametrize("batch", [1, 3])
def test_an_image_is_that_of_its_own_seed(graph, run, assert_same_images, batch):
    """Whatever the batch; the rounding of sums differs with it."""
    loader = graph.checkpoint()
    guides = low_resolution(graph)
    saved = [decode(graph, loader, guided(graph, loader, guides, batch=n)) for n in (batch, 2)]
    result = run(graph)
    assert_same_images(result[saved[0].id][:1], result[saved[1].id][:1])


class NoiseOfTheCorrected:
    """A guided model as a sampler of the host sees it: nothing but a corrected clean latent."""

    def __init__(self, model: ldm_backend.LatentDiffusion, guided: Any) -> None:
        self._schedule, self._guided = model.schedule, guided

    def __call__(self, x_t: torch.Tensor, t: float) -> torch.Tensor:
        a = self._schedule.alpha_cumprod(t)
        pred_x0 = (x_t - (1 - a) ** 0.5 * self._guided(x_t, t)) / a**0.5
        return (x_t - a**0.5 * self._guided.corrected(pred_x0, t)) / (1 - a) ** 0.5


@pytest.mark.usefixtures("pictures")
@pytest.mark.parametrize("name", ["low resolution", "colour", "score", "a chain"])
def test_samplers_of_the_host_get_the_corrected_picture(graph, tiny, save_latent, name):
    """Euler is DDIM with eta 0, in which the noise is made to fit the corrected picture."""
    in_host, without_host = GUIDES[name]
    loader = graph.checkpoint()
    euler = graph.add("KSamplerSelect", sampler_name="euler")[0]
    made = save_latent(graph, guided(graph, loader, in_host(graph), batch=2, sampler=euler))
    expected = sample_latents(
        tiny, [3, 4], 4, grid="trailing",
        guides=lambda model, denoiser, shape: NoiseOfTheCorrected(
            model, Guides(*without_host())(model, denoiser, shape)
        ),
    )  # fmt: skip
    torch.testing.assert_close(made, expected, atol=2e-3 * float(expected.std()), rtol=0)


def test_other_samplers_of_the_host(graph, run):
    """Whatever they do between, the last picture of the demo agrees with what is known."""
    loader = graph.checkpoint("portraits-128")
    drawn = graph.ddim(loader, graph.noise(5, width=128, height=128), steps=8, grid="trailing")
    portrait = graph.add("LDMVQDecode", vae=loader[1], latent=drawn[0])
    small = graph.add("ImageScale", image=portrait[0], upscale_method="area", width=32, height=32, crop="disabled")
    guide = graph.add("LDMGuideLowResolution", image=small[0], **SMALL, **PROJECTION)
    names = ("dpmpp_2m", "uni_pc", "heun", "dpmpp_sde", "euler_cfg_pp")
    selects = [graph.add("KSamplerSelect", sampler_name=name)[0] for name in names]
    saved = [decode(graph, loader, guided(graph, loader, guide, side=128, sampler=select)) for select in selects]
    seen = graph.save(small)
    result = run(graph)
    for name, node in zip(names, saved, strict=True):
        back = result[node.id].reshape(1, 32, 4, 32, 4, 3).mean((2, 4))
        assert np.abs(back - result[seen.id]).mean() < 6.0, name


@pytest.mark.usefixtures("pictures")
@pytest.mark.parametrize("name", ["low resolution", "score"])
def test_what_other_nodes_put_around_the_model_counts(graph, tiny, save_latent, name):
    """Then the way leads through the host's noise levels, which costs digits; the picture is the same."""
    loader = graph.checkpoint()
    around = graph.add("DifferentialDiffusion", model=loader[0])
    guider = graph.add("LDMGuided", model=around[0], vae=loader[1], guides=GUIDES[name][0](graph)[0])
    made = save_latent(graph, guided(graph, loader, None, batch=2, guider=guider))
    expected = sample_latents(tiny, [3, 4], **RUN, guides=Guides(*GUIDES[name][1]()))
    torch.testing.assert_close(made, expected, atol=2e-3 * float(expected.std()), rtol=0)
    assert not torch.equal(made, expected)


@pytest.mark.usefixtures("pictures")
@pytest.mark.parametrize("name", ["low resolution", "score"])
def test_a_patched_model(graph, tiny, save_latent, name):
    """Gradients go through weights that the host patched before, for a node without guides, in inference mode."""
    loader = graph.checkpoint()
    merged = graph.add("ModelMergeSimple", model1=loader[0], model2=loader[0], ratio=0.5)
    before = graph.ddim(merged, graph.noise(), steps=1)
    nothing = graph.add("LatentSubtract", samples1=before[0], samples2=before[0])  # empty, and made after it
    guider = graph.add("LDMGuided", model=merged[0], vae=loader[1], guides=GUIDES[name][0](graph)[0])
    made = save_latent(graph, guided(graph, loader, None, guider=guider, latent_image=nothing[0]))
    expected = sample_latents(tiny, [3], **RUN, guides=Guides(*GUIDES[name][1]()))
    torch.testing.assert_close(made, expected, atol=2e-3 * float(expected.std()), rtol=0)


@pytest.mark.usefixtures("pictures")
@pytest.mark.parametrize("sampler", ["ddim", "euler"])
def test_a_noise_mask(graph, save_latent, sampler):
    """Where it is black the latent stays, whatever the guide says; elsewhere the guide is followed."""
    loader = graph.checkpoint()
    latent = graph.add("VAEEncode", pixels=loaded(graph), vae=loader[1])
    white = graph.add("SolidMask", value=1.0, width=32, height=64)
    black = graph.add("SolidMask", value=0.0, width=64, height=64)
    mask = graph.add("MaskComposite", destination=black[0], source=white[0], x=0, y=0, operation="add")
    masked = graph.add("SetLatentNoiseMask", samples=latent[0], mask=mask[0])
    given = {"latent_image": masked[0]}
    if sampler == "euler":
        given["sampler"] = graph.add("KSamplerSelect", sampler_name="euler")[0]
    kept = save_latent(graph, latent)
    made = save_latent(graph, guided(graph, loader, colour(graph), **given))
    free = save_latent(graph, guided(graph, loader, None, guider=graph.add("LDMGuider", model=loader[0]), **given))
    torch.testing.assert_close(made[..., 8:], kept[..., 8:], atol=1e-5, rtol=1e-5)
    assert not torch.equal(made[..., :8], free[..., :8])


@pytest.mark.usefixtures("pictures")
@pytest.mark.parametrize("method", ["loss", "score"])
def test_a_model_that_sees_a_picture(graph, conditional, save_latent, method):
    """Super-resolution with a guide beside its conditioning, two pictures of one batch."""
    loader = graph.checkpoint("super-resolution")
    image = graph.add("RepeatImageBatch", image=loaded(graph, "guide-small.png"), amount=2)
    made = graph.add("LDMSuperResolutionConditioning", model=loader[0], image=image[0])
    wires = {"model": loader[0], "vae": loader[1], "positive": made[0]}
    guider = graph.add("LDMGuided", guides=colour(graph, method=method)[0], **wires)
    found = save_latent(graph, guided(graph, loader, None, guider=guider, latent_image=made[1]))
    model = conditional["super-resolution"]
    c = low_resolution_channels(np.stack([TINY_PICTURE] * 2), model.config)
    kind = LossGradient if method == "loss" else ScoreGradient
    guides = Guides(kind(MeanColour(WARM)))
    assert torch.equal(found, sample_latents(model, [3, 4], **RUN, conditioning=c, guides=guides))


def test_cancel_stops_within_a_step(graph, progress_until_cancelled):
    loader = graph.checkpoint()
    sampled = guided(graph, loader, colour(graph), batch=4, steps=1000)
    decode(graph, loader, sampled)
    assert progress_until_cancelled(graph, sampled.id)[-1] < 100


# What is wrong: the node that makes the guide, or the guider; which node says so; and what it says.
def _several(graph: Any) -> Any:
    image = graph.add("RepeatImageBatch", image=loaded(graph, "guide-small.png"), amount=3)
    return graph.add("LDMGuideLowResolution", image=image[0], **SMALL, **PROJECTION)


def _mask(graph: Any, value: float, side: int = 64) -> Any:
    return graph.add("SolidMask", value=value, width=side, height=side)[0]


def _known(graph: Any, mask: Any) -> Any:
    return graph.add("LDMGuideKnownPixels", image=loaded(graph), mask=mask, **PROJECTION)


RUNNER = "SamplerCustomAdvanced"
WRONG: dict[str, tuple[Callable[[Any], Any], str, str]] = {
    "another size": (lambda g: low_resolution(g, factor=2), RUNNER, "1 of 16x16 pixels; expected 1 .*32x32"),
    "a number that fits neither": (_several, RUNNER, "3 of 16x16 pixels; expected 1 "),
    "no multiple": (lambda g: low_resolution(g, factor=3), RUNNER, "multiples of 3"),
    "a mask of everything": (lambda g: _known(g, _mask(g, 1.0)), RUNNER, "covers its whole picture"),
    "a mask of nothing": (lambda g: _known(g, _mask(g, 0.0)), RUNNER, "mask is empty"),
    "a mask of another size": (lambda g: _known(g, _mask(g, 1.0, 32)), "LDMGuideKnownPixels", "32, 32"),
    "masks of another number": (
        lambda g: g.add(
            "LDMGuideKnownPixels", image=g.add("RepeatImageBatch", image=loaded(g), amount=2)[0],
            mask=g.add("ImageToMask", image=g.add("RepeatImageBatch", image=loaded(g), amount=3)[0], channel="red")[0],
            **PROJECTION,
        ), "LDMGuideKnownPixels", r"masks have shape \(3, 64, 64\)",
    ),
    "a reference mask of nothing": (
        lambda g: g.add("LDMGuideReference", image=loaded(g), mask=_mask(g, 0.0), **GRADIENT), RUNNER, "is empty",
    ),
    "an end before the start": (lambda g: low_resolution(g, start=0.6, end=0.4), "LDMGuideLowResolution", "start"),
    "two means": (lambda g: colour(g, colours="#000000,#ffffff"), "LDMGuideColour", "expected one for a mean"),
    "no colour": (lambda g: colour(g, colours="warm"), "LDMGuideColour", "'warm' is no colour"),
    "nothing for a colour": (lambda g: colour(g, colours=" "), "LDMGuideColour", "0 colours"),
    "moves of a score": (lambda g: colour(g, method="score", inner=2), "LDMGuideColour", "method is score"),
    "an even kernel": (
        lambda g: g.add(
            "LDMGuideBlurredPicture", image=loaded(g), sigma=1.0, sharpening=5, **PROJECTION,
            kernel=loaded(g, "guide-small.png"),
        ), "LDMGuideBlurredPicture", "both odd",
    ),
}  # fmt: skip


@pytest.mark.usefixtures("pictures")
@pytest.mark.parametrize("name", WRONG)
def test_what_is_refused(graph, client, name):
    make, node_type, message = WRONG[name]
    loader = graph.checkpoint()
    decode(graph, loader, guided(graph, loader, make(graph)))
    assert re.search(message, found := expect_failure(client, graph, node_type)), found


@pytest.mark.usefixtures("conditional")
def test_a_vae_of_another_model_is_refused(graph, client):
    loader, other = graph.checkpoint(), graph.checkpoint("portraits-128")
    guider = graph.add("LDMGuided", model=loader[0], vae=other[1], guides=colour(graph)[0])
    decode(graph, loader, guided(graph, loader, None, guider=guider))
    assert "not the one that this MODEL was trained with" in expect_failure(client, graph, "LDMGuided")


@pytest.mark.usefixtures("conditional")
def test_a_model_that_sees_a_picture_needs_its_conditioning(graph, client):
    loader = graph.checkpoint("super-resolution")
    decode(graph, loader, guided(graph, loader, colour(graph)))
    assert "LDM Super-Resolution Conditioning" in expect_failure(client, graph, "LDMGuided")


@pytest.mark.usefixtures("pictures")
def test_a_score_of_a_masked_batch_is_refused(graph, client):
    """Its gradient takes the pictures one by one, and the host joins the masks to the whole batch."""
    loader = graph.checkpoint()
    latent = graph.add("SetLatentNoiseMask", samples=graph.empty(2)[0], mask=_mask(graph, 1.0))
    decode(graph, loader, guided(graph, loader, colour(graph, method="score"), latent_image=latent[0]))
    assert "one picture at a time" in expect_failure(client, graph, RUNNER)


def test_a_latent_of_another_size_is_refused(graph, client):
    loader = graph.checkpoint()
    decode(graph, loader, guided(graph, loader, colour(graph), latent_image=graph.odd()[0]))
    assert "16x17" in expect_failure(client, graph, RUNNER)


def test_a_gradient_that_does_not_fit_is_refused_before_the_run(graph, client):
    """With the reason and what fits; a projection of that size would be drawn."""
    loader = graph.checkpoint()
    decode(graph, loader, guided(graph, loader, colour(graph), side=8192))
    found = expect_failure(client, graph, RUNNER)
    assert re.search(r"would take \d+\.\d GB of memory", found), found
    assert "Projection" in found
