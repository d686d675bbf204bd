"""DeepCache: exact where it is off, what it says where it is on, and no trace in the network."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import silu

import ldm_backend
from ldm_backend.config.model import ScheduleConfig, UNetConfig
from ldm_backend.errors import InputError
from ldm_backend.kernels.fp32 import fp32
from ldm_backend.networks.deep_cache import DeepCache
from ldm_backend.networks.layers import timestep_embedding
from ldm_backend.networks.unet import UNet
from ldm_backend.sampling.noise import draw_noise
from ldm_backend.sampling.samplers import SAMPLERS, adds_noise, sample
from ldm_backend.sampling.schedule import Schedule

THREE_LEVELS = UNetConfig(
    sample_size=8,
    block_out_channels=(8, 16, 24),
    down_block_types=("DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"),
    up_block_types=("AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
    layers_per_block=2,
    attention_head_dim=8,
    norm_num_groups=4,
)
CHURCHES = replace(
    THREE_LEVELS, resnet_time_scale_shift="scale_shift", downsample_type="resnet", upsample_type="resnet"
)


def random_unet(config: UNetConfig = THREE_LEVELS) -> UNet:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return UNet(config)


def counted(unet: UNet) -> list[int]:
    """A list that grows with each pass through the middle block, i.e. each whole evaluation."""
    calls: list[int] = []
    unet.mid_block.register_forward_hook(lambda *_: calls.append(1))
    return calls


def keeping(outputs: list[Tensor]) -> Callable[..., None]:
    """A forward hook that appends each output."""
    return lambda _module, _inputs, output: outputs.append(output)


def resnets(block: Any) -> Any:
    return block.resnets


def latents(*seeds: int) -> Tensor:
    return draw_noise(seeds, (3, 8, 8))


@torch.no_grad()
@pytest.mark.parametrize("config", [THREE_LEVELS, CHURCHES], ids=["conv", "resnet"])
@pytest.mark.parametrize("depth", [1, 2, 3])
def test_whole_evaluations_are_those_of_the_network(config, depth):
    """Interval 1, and the first call of every interval: bit for bit."""
    unet = random_unet(config)
    always, sometimes = DeepCache(unet, 1, depth), DeepCache(unet, 2, depth)
    for index, t in enumerate((999, 900.5, 3, 0)):
        x = latents(index, 50 + index)
        expected = unet(x, t)
        assert torch.equal(always(x, t), expected)
        assert torch.equal(sometimes(x, t), expected) == (index % 2 == 0)


@torch.no_grad()
def test_depth_1_by_hand():
    """In between: conv_in, the finest level's resnets, their skips, and the deep features of the call before."""
    unet = random_unet()
    first, second = latents(1), latents(2)
    deep: list[Tensor] = []
    hook = unet.up_blocks[1].register_forward_hook(keeping(deep))
    cache = DeepCache(unet, 2, 1)
    cache(first, 500)
    hook.remove()

    with fp32():  # as every way into a network: layers alone do not see to it
        temb = unet.time_embedding(timestep_embedding(torch.tensor([480]), 8))
        skips = [unet.conv_in(second)]
        for resnet in resnets(unet.down_blocks[0]):
            skips.append(resnet(skips[-1], temb))
        h = deep[0]
        for resnet in resnets(unet.up_blocks[2]):
            h = resnet(torch.cat([h, skips.pop()], dim=1), temb)
        expected = unet.conv_out(silu(unet.conv_norm_out(h)))
    assert torch.equal(cache(second, 480), expected)


@torch.no_grad()
def test_all_levels_leave_out_only_the_middle():
    """With depth = levels a call in between sees the old middle and nothing else that is old."""
    unet = random_unet()
    cache = DeepCache(unet, 2, 3)
    middles: list[Tensor] = []
    hook = unet.mid_block.register_forward_hook(keeping(middles))
    cache(latents(1), 500)
    hook.remove()
    unet.mid_block.register_forward_hook(lambda *_: middles[0])  # what a hook returns takes the output's place
    expected = unet(latents(2), 480)
    assert torch.equal(cache(latents(2), 480), expected)


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize(("interval", "steps", "whole"), [(1, 7, 7), (2, 7, 4), (3, 7, 3), (7, 7, 1), (50, 7, 1)])
def test_every_sampler_runs_with_it(sampler, interval, steps, whole):
    """The whole network runs at every interval-th evaluation; plms makes one evaluation more than it has steps."""
    unet, schedule = random_unet(), Schedule(ScheduleConfig())
    calls = counted(unet)
    settings: dict[str, Any] = {"step_noise": lambda: latents(5)} if adds_noise(sampler) else {}
    sample(sampler, DeepCache(unet, interval), latents(1), schedule, schedule.timesteps(steps, "trailing"), **settings)
    assert len(calls) in ({whole} if sampler != "plms" else {whole, -(-(steps + 1) // interval)})


@torch.no_grad()
def test_an_image_does_not_depend_on_its_batch():
    unet = random_unet()
    alone, together = DeepCache(unet, 2), DeepCache(unet, 2)
    for seed in (1, 2, 3):
        expected = alone(latents(seed), 500)
        torch.testing.assert_close(together(latents(seed, 60), 500)[:1], expected, atol=1e-5, rtol=1e-5)


def test_a_run_leaves_no_trace(tiny):
    """The features belong to the run: the next one, cached or not, is that of a fresh model."""
    exact = ldm_backend.generate(tiny, seeds=[4], steps=6)
    cached = ldm_backend.generate(tiny, seeds=[4], steps=6, cache_interval=3)
    assert not np.array_equal(cached, exact)
    assert np.array_equal(ldm_backend.generate(tiny, seeds=[4], steps=6, cache_interval=3), cached)
    assert np.array_equal(ldm_backend.generate(tiny, seeds=[4], steps=6), exact)
    assert np.array_equal(ldm_backend.generate(tiny, seeds=[4], steps=6, cache_interval=1), exact)


@pytest.mark.parametrize(("depth", "decibels"), [(1, 34.0), (4, 43.0)])
def test_the_demo_keeps_its_picture(root, depth, decibels):
    """20 steps, every second one whole: measured 37.1 and 45.9 dB."""
    model = ldm_backend.load(root / "demo" / "portraits-128", device="cpu")
    exact, cached = (
        ldm_backend.generate(model, seeds=[10, 11], steps=20, cache_interval=interval, cache_depth=depth).astype(float)
        for interval in (1, 2)
    )
    psnr = 10 * np.log10(255**2 / ((exact - cached) ** 2).mean())
    assert psnr > decibels


@pytest.mark.parametrize(
    ("interval", "depth", "message"),
    [
        (0, 1, "cache_interval is 0; expected 1"),
        (2, 0, "cache_depth is 0, but this UNet has 3 levels"),
        (2, 4, "cache_depth is 4, but this UNet has 3 levels"),
    ],
)
def test_settings_out_of_range_are_named(interval, depth, message):
    with pytest.raises(InputError, match=message):
        DeepCache(random_unet(), interval, depth)


@torch.no_grad()
def test_another_batch_in_the_same_run_is_refused():
    cache = DeepCache(random_unet(), 2)
    cache(latents(1), 500)
    with pytest.raises(InputError, match="Use a new DeepCache for each run"):
        cache(latents(1, 2), 480)
    with pytest.raises(InputError, match="expects"):
        cache(torch.zeros(1, 4, 8, 8), 480)
