"""Larger products and recorded evaluations, on the pretended card: the same numbers, void when the weights change."""

from __future__ import annotations

import copy
import logging
import pickle
import threading
from collections.abc import Callable, Iterator

import pytest
import torch
from pretend_cuda import Log, pretend_card
from torch import Tensor

import ldm_backend
from ldm_backend.kernels import cuda_graphs, fast_conv
from ldm_backend.kernels.weight_forms import plain_state
from ldm_backend.networks.deep_cache import DeepCache
from ldm_backend.networks.layers import Attention, Upsample
from ldm_backend.networks.unet import UNet, one_per_image
from ldm_backend.pipeline import sample_latents
from ldm_backend.sampling.noise import draw_noise
from ldm_backend.sampling.samplers import StepInfo

SHAPE = (3, 8, 8)
# Products in another order, in float32: 1e-7 for each; measured 3e-7 for the whole network.
ROUNDING = 2e-6


@pytest.fixture(autouse=True)
def _without_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield


@pytest.fixture
def log() -> Iterator[Log]:
    with pretend_card() as log:
        yield log


@pytest.fixture
def unet(log, tiny_folder) -> UNet:
    return ldm_backend.load(tiny_folder, device="cuda").unet


def latents(seed: int = 3, images: int = 2) -> Tensor:
    return draw_noise(range(seed, seed + images), SHAPE).to("cuda")


def plain(unet: UNet, x: Tensor, t: float = 500) -> Tensor:
    """An evaluation without any graph, in whichever form the weights have."""
    return UNet._evaluate(unet, x, one_per_image(t, x))


def on_cpu(unet: UNet) -> UNet:
    """A network of the same weights."""
    twin = UNet(unet.config)
    twin.load_state_dict({name: weight.cpu() for name, weight in unet.state_dict().items()})
    return twin


def recorded(unet: UNet) -> int:
    return len(unet._graphs._recorded)


def off(found: Tensor, expected: Tensor) -> float:
    return float((found.cpu() - expected.cpu()).abs().max() / expected.cpu().abs().max())


def replays(log: Log) -> int:
    return sum(act.what == "CUDAGraph.replay" for act in log.of("launch"))


def test_the_second_call_is_recorded_and_the_numbers_are_those_of_the_first(unet, log):
    for index, t in enumerate((900.0, 500.0, 500.0, 20.5)):
        x = latents(index)
        assert torch.equal(unet(x, t).cpu(), plain(unet, x, t).cpu()), index
        assert recorded(unet) == (index > 0)
    assert replays(log) == 3


def test_results_are_the_callers(unet):
    """plms and the solvers keep what earlier calls returned."""
    made = [unet(latents(seed), 500) for seed in (1, 1, 1, 2)]
    assert torch.equal(made[1].cpu(), made[2].cpu())
    assert not torch.equal(made[2].cpu(), made[3].cpu())


def test_each_shape_has_a_graph_as_long_as_there_is_room(unet, monkeypatch):
    monkeypatch.setattr(cuda_graphs, "MAX_CELLS", 5 * 64)
    for images in (2, 3, 1):
        for _ in range(3):
            x = latents(7, images)
            assert torch.equal(unet(x, 500).cpu(), plain(unet, x).cpu())
    assert recorded(unet) == 2


def swap(unet: UNet) -> None:
    unet.conv_in.weight = torch.nn.Parameter(unet.conv_in.weight * 1.1, requires_grad=False)


def scale(unet: UNet) -> None:
    unet.get_parameter("mid_block.attentions.0.to_k.weight").mul_(1.1)


def move(unet: UNet) -> None:
    unet.to("cpu").to("cuda")
    unet.get_parameter("mid_block.resnets.0.time_emb_proj.weight").mul_(1.1)


@pytest.mark.parametrize("change", [swap, scale, move])
def test_other_weights_are_noticed(unet, change: Callable[[UNet], None]):
    x = latents()
    before = [unet(x, 500) for _ in range(3)][-1]
    change(unet)
    expected = on_cpu(unet)(x.cpu(), 500)
    for _ in range(3):
        after = unet(x, 500)
        assert torch.equal(after.cpu(), plain(unet, x).cpu())
        assert off(after, before) > 1e-4
        assert off(after, expected) < ROUNDING


def test_the_end_of_a_run_frees_everything(log, tiny_folder):
    model = ldm_backend.load(tiny_folder, device="cuda")
    sample_latents(model, [3], 4)
    assert replays(log) == 3
    assert not recorded(model.unet)
    assert not any("form" in layer.__dict__ for layer in model.unet.modules())


def test_so_does_a_run_that_is_cut_off(log, tiny_folder):
    model = ldm_backend.load(tiny_folder, device="cuda")

    def cancel(info: StepInfo) -> None:
        if info.index == 2:
            assert recorded(model.unet)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sample_latents(model, [3], 4, callback=cancel)
    assert not recorded(model.unet)
    assert model.unet.form is None


def watch(unet: UNet) -> None:
    unet.mid_block.register_forward_hook(lambda *_: None)


def train(unet: UNet) -> None:
    unet.requires_grad_(True)
    torch.set_grad_enabled(True)


def put_partly_elsewhere(unet: UNet) -> None:
    unet.up_blocks[0].to("cpu")


def replace_forward(unet: UNet) -> None:
    unet.conv_out.forward = unet.conv_out.forward


@pytest.mark.parametrize("way", [watch, train, put_partly_elsewhere, replace_forward])
def test_where_others_take_part_the_network_is_called_as_it_is(unet, way: Callable[[UNet], None]):
    way(unet)
    assert plain_state(unet, latents()) is None
    if way is not put_partly_elsewhere:
        for _ in range(3):
            unet(latents(), 500)
    assert unet.form is None
    assert not recorded(unet)


def test_what_cannot_be_recorded_runs_as_it_is_and_says_so_once(unet, monkeypatch, caplog):
    evaluate = UNet._evaluate

    def waits(network: UNet, x: Tensor, t: Tensor) -> Tensor:
        eps = evaluate(network, x, t)
        return eps * float(eps.abs().max() > 0)

    monkeypatch.setattr(UNet, "_evaluate", waits)
    x = latents()
    with caplog.at_level(logging.WARNING):
        made = [unet(x, 500) for _ in range(4)]
    assert all(torch.equal(one.cpu(), made[0].cpu()) for one in made)
    assert sum("could not be recorded" in record.message for record in caplog.records) == 1
    assert torch.cuda.current_stream() is torch.cuda.default_stream()


def test_threads_do_not_share_a_recording(unet):
    x, made = latents(), []
    expected = [unet(x, 500) for _ in range(3)][-1]

    def run() -> None:
        with torch.no_grad():
            made.extend(unet(x, 500) for _ in range(3))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert recorded(unet) == 2
    assert all(torch.equal(one.cpu(), expected.cpu()) for one in made)


def test_a_cached_run_is_recorded_in_both_of_its_forms(unet, log):
    run, plain_run = DeepCache(unet, 2), DeepCache(on_cpu(unet), 2)
    for index in range(8):
        x = latents(index)
        assert off(run(x, 900 - index), plain_run(x.cpu(), 900 - index)) < ROUNDING
    assert recorded(unet) == 2
    assert replays(log) == 6


def test_a_network_with_graphs_can_be_copied_and_pickled(unet):
    for _ in range(3):
        unet(latents(), 500)
    graphs = unet._graphs
    for twin in (copy.deepcopy(graphs), pickle.loads(pickle.dumps(graphs))):  # noqa: S301 - our own
        assert not twin._recorded


def test_the_cpu_has_neither(tiny):
    for _ in range(3):
        tiny.unet(draw_noise([3], SHAPE), 500)
    assert tiny.unet.form is None
    assert not recorded(tiny.unet)


@pytest.mark.parametrize("side", [1, 2, 5])
def test_a_doubling_folded_into_the_kernels_is_the_same(side):
    conv = torch.nn.Conv2d(3, 4, 3, padding=1).double()
    x = torch.randn((2, 3, side, side + 1), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    expected = conv(torch.nn.functional.interpolate(x, scale_factor=2.0, mode="nearest"))
    assert conv.bias is not None
    found = fast_conv.doubled(x, fast_conv.fold(conv.weight), conv.bias.repeat(4))
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_every_kind_of_form_is_made(unet):
    unet(latents(), 500)
    formed = {type(layer) for layer in unet.modules() if "form" in layer.__dict__}
    assert formed == {UNet, Attention, Upsample}


def with_gradients(unet: UNet, x: Tensor) -> None:
    with torch.enable_grad():
        unet(x.clone().requires_grad_(), 500).sum()


def watched(unet: UNet, x: Tensor) -> None:
    hook = unet.conv_out.register_forward_hook(lambda *_: None)
    unet(x, 500)
    hook.remove()


@pytest.mark.parametrize("between", [with_gradients, watched])
def test_a_call_as_it_is_between_recorded_ones_leaves_no_graph_of_forms_that_are_gone(unet, between):
    """The weights are what they were; what was made of them lies elsewhere by then."""
    x = latents()
    expected = [unet(x, 500) for _ in range(3)][-1]
    between(unet, x)
    kept = torch.ones(10**6, device="cuda")  # where the old forms were, perhaps
    for index in range(3):
        assert torch.equal(unet(x, 500).cpu(), expected.cpu())
        assert recorded(unet) == (index > 0)
    assert kept.sum() == 10**6
