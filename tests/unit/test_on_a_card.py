"""The backend on the pretended card: devices and formats go together, pictures are the CPU's, steps keep their budget.

Kernels are the CPU's, so this says nothing about a card's rounding. On the CPU itself some layers take other ways to
the same sums (`fast_conv`, `fast_norm`), so pictures may differ by the rounding of float32 between the two.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from pretend_cuda import Log, pretend_card
from torch import Tensor

import ldm_backend
from ldm_backend.config.model import VQConfig
from ldm_backend.config.presets import CELEBAHQ_256
from ldm_backend.editing.inpainting import composite, inpaint, latent_mask, repaint_moves
from ldm_backend.editing.interpolation import circle, line, slerp
from ldm_backend.editing.inversion import invert_ddim
from ldm_backend.memory import chunks
from ldm_backend.networks import skip_init
from ldm_backend.networks.tiled_decode import MIN_TILE, decode_tiled
from ldm_backend.networks.unet import UNet, one_per_image
from ldm_backend.networks.vq import VQModel
from ldm_backend.pipeline import evaluation, sample_latents
from ldm_backend.sampling.noise import StepNoise, draw_noise
from ldm_backend.sampling.samplers import SAMPLERS
from ldm_backend.views.code_view import view_codes
from ldm_backend.views.latent_rgb import fit_latent_rgb


@dataclass(frozen=True)
class Budget:
    """What a step may ask for beside its kernels.

    Attributes:
        syncs: the CPU waits, and the card has nothing to do until it goes on.
        copies: between CPU and card that the CPU may have to wait for.
        queries: of memory.
    """

    syncs: int
    copies: int
    queries: int


# What a step may ask for beside its kernels, with every sampler; without a recorded evaluation too.
STEP = Budget(syncs=0, copies=0, queries=0)
SAMPLED = [
    ("ddim", 0.0), ("ddim", 0.5), ("plms", 0.0), ("dpmpp_2m", 0.0), ("dpmpp_3m", 0.0), ("dpmpp_2m_sde", 0.0),
    ("unipc", 0.0), ("ddpm", 0.0),
]  # fmt: skip

# Operators with a kernel in one evaluation of the networks of full size. The size of the picture changes none of them.
# Without joined weights the UNet had 431. The decoder's include folding its kernels anew: 105 without.
UNET_LAUNCHES = 332
DECODER_LAUNCHES = 120

# Root mean square of the difference to the CPU in the same format, relative to the latents. Measured: 2.3e-7 in
# float32, and none in half precision, where the CPU goes the same ways; allowed is one rounding of these formats.
TOLERANCES = {"fp32": 2e-6, "tf32": 2e-6, "bf16": 2**-8, "fp16": 2**-11}
SEEDS = [3, 4]
SHAPE = (3, 8, 8)


@pytest.fixture
def log() -> Iterator[Log]:
    with pretend_card() as log:
        yield log
        assert not log.of("mismatch")
        assert not log.of("race")


@pytest.fixture
def on_card(log, tiny_folder) -> ldm_backend.LatentDiffusion:
    return ldm_backend.load(tiny_folder, device="cuda")


def off(found: Tensor, expected: Tensor) -> float:
    """Relative difference."""
    return float((found.cpu() - expected).square().mean().sqrt() / expected.square().mean().sqrt())


@pytest.mark.parametrize("precision", TOLERANCES)
@pytest.mark.parametrize(("sampler", "eta"), SAMPLED)
def test_every_sampler_in_every_format_is_that_of_the_cpu(log, tiny_folder, sampler, eta, precision):
    settings = (SEEDS, 3, eta, sampler, "trailing")
    expected = sample_latents(ldm_backend.load(tiny_folder, "cpu", precision=precision), *settings)
    assert not log.launches
    model = ldm_backend.load(tiny_folder, device="cuda", precision=precision)
    found = sample_latents(model, *settings)
    assert found.device == torch.device("cuda", 0)
    assert off(found, expected) < TOLERANCES[precision]


def test_all_samplers_have_a_budget():
    assert {sampler for sampler, _ in SAMPLED} == set(SAMPLERS)


@pytest.mark.slow
def test_pictures_with_and_without_cache_are_those_of_the_cpu(on_card, tiny):
    """One level, in few pixels: where a value lies at the border between two."""
    for interval in (1, 2):
        expected = ldm_backend.generate(tiny, SEEDS, 4, cache_interval=interval)
        found = ldm_backend.generate(on_card, SEEDS, 4, cache_interval=interval)
        difference = np.abs(found.astype(int) - expected.astype(int))
        assert difference.max() <= 1
        assert (difference > 0).mean() < 0.001


@torch.no_grad()
def test_inversion_and_inpainting_are_those_of_the_cpu(on_card, tiny):
    x_0, x_T = draw_noise([5, 6], SHAPE), draw_noise(SEEDS, SHAPE)  # noqa: N806
    mask = torch.zeros(32, 32)
    mask[:16] = 1
    made = []
    for model in (tiny, on_card):
        pairs, eps_model = model.schedule.timesteps(3, "trailing"), evaluation(model)
        cells = latent_mask(mask.to(model.device), x_0.shape, 4)
        moves = repaint_moves(pairs, 1, 2)
        start, known = x_T.to(model.device), x_0.to(model.device)
        filled = inpaint(eps_model, start, known, cells, model.schedule, moves, StepNoise(SEEDS, SHAPE))
        made.append((filled, invert_ddim(eps_model, known, model.schedule, pairs[:2])))
    (filled_there, start_there), (filled_here, start_here) = made
    assert off(filled_here, filled_there) < 1e-5
    # Each step evaluates ten times at the result of the evaluation before, and this untrained network enlarges errors.
    assert off(start_here, start_there) < 1e-4


@torch.no_grad()
@pytest.mark.parametrize(
    "work",
    [
        lambda vq, z: vq.decode(z),
        lambda vq, z: vq.encode(vq.decode(z)),
        lambda vq, z: decode_tiled(vq, z, MIN_TILE),
        lambda vq, z: view_codes(vq, z).codes,
        lambda vq, z: torch.tensor(fit_latent_rgb(vq).weight),
        lambda vq, z: slerp(z[:1], z[1:], 0.3),
        lambda vq, z: line(z[:1], z[1:], 3),
        lambda vq, z: circle(z[:1], z[1:], 4),
        lambda vq, z: composite(z.movedim(1, -1), z.movedim(1, -1) + 1, torch.ones(2 * MIN_TILE, MIN_TILE), 2),
    ],
    ids=["decode", "encode", "tiled", "code-view", "colours", "slerp", "line", "circle", "composite"],
)
def test_what_is_done_with_latents_is_that_of_the_cpu(on_card, tiny, work: Callable[[VQModel, Tensor], Tensor]):
    z = draw_noise(SEEDS, (3, 2 * MIN_TILE, MIN_TILE))
    assert off(work(on_card.first_stage, z.to("cuda")), work(tiny.first_stage, z)) < 1e-4


# Budgets


def parts_of_steps(log: Log, model: ldm_backend.LatentDiffusion, sampler: str, eta: float) -> list[Log]:
    """The log of each step from the third on; what a run does once is in the first, and recording in the second."""
    parts: list[Log] = []
    log.cut()
    sample_latents(model, SEEDS, 6, eta, sampler, "trailing", callback=lambda _: parts.append(log.cut()))
    return parts[2:]


def asked_for(part: Log) -> Budget:
    return Budget(len(part.syncs), sum(copy.waits for copy in part.copies), len(part.queries))


@pytest.fixture
def of_any_size(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory is asked for only where much is needed, and this model needs little."""
    monkeypatch.setattr(chunks, "_SMALL", 0)


@pytest.mark.usefixtures("of_any_size")
@pytest.mark.parametrize(("sampler", "eta"), SAMPLED)
def test_a_step_asks_for_no_more_than_its_budget(log, on_card, sampler, eta):
    for part in parts_of_steps(log, on_card, sampler, eta):
        found = [act for act in part.acts if act.kind != "launch"]
        assert asked_for(part) == STEP, "\n".join(map(str, found))
        assert "CUDAGraph.replay" in part.launches


@pytest.mark.usefixtures("of_any_size")
@pytest.mark.parametrize(
    ("extra", "field"),
    [
        (lambda x: x.sum().item(), "syncs"),
        (lambda x: x.to("cpu"), "copies"),
        (lambda x: torch.cuda.mem_get_info(), "queries"),
    ],
)
def test_the_budget_notices_one_more(log, on_card, extra, field):
    on_card.unet.conv_out.register_forward_hook(lambda _module, _inputs, output: (extra(output), None)[1])
    for part in parts_of_steps(log, on_card, "ddim", 0.0):
        assert getattr(asked_for(part), field) == getattr(STEP, field) + 1
        assert any("test_on_a_card.py" in act.where for act in part.acts)


@pytest.mark.slow
@torch.inference_mode()
def test_launches_of_the_networks_of_full_size(log):
    """Of weights that nobody has set, at a small size."""
    unet = UNet(CELEBAHQ_256.unet, skip_init, device="cuda")
    assert isinstance(CELEBAHQ_256.first_stage, VQConfig)
    vq = VQModel(CELEBAHQ_256.first_stage, skip_init, device="cuda")
    x = torch.zeros(1, 3, 16, 16, device="cuda")
    log.cut()
    unet(x, 500.0)  # the first makes what the others take
    log.cut()
    UNet._evaluate(unet, x, one_per_image(500.0, x))
    assert len(log.cut().launches) == UNET_LAUNCHES
    vq.decode(x)
    assert len(log.cut().launches) == DECODER_LAUNCHES
