"""UNets that attend to a context: the names of their tensors, what is refused, and the ways in which they are run."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from compvis_writer import published_shapes
from pretend_cuda import pretend_card
from torch import Tensor

from ldm_backend.checkpoints.key_maps import compvis_unet_sources, ema_key
from ldm_backend.config.model import LDMConfig, UNetConfig
from ldm_backend.config.presets import IMAGENET_256, IMAGENET_256_F8
from ldm_backend.errors import ConfigError, InputError
from ldm_backend.memory.estimates import FIXED, unet_bytes
from ldm_backend.networks.deep_cache import DeepCache
from ldm_backend.networks.precision import set_precision
from ldm_backend.networks.unet import UNet
from ldm_backend.sampling.noise import draw_noise

# As the YAML of the release says it.
TEXT = UNetConfig(
    sample_size=32,
    in_channels=4,
    out_channels=4,
    block_out_channels=(320, 640, 1280, 1280),
    attention_head_dim=None,
    num_attention_heads=8,
    cross_attention_dim=1280,
    down_block_types=("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
    up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
)
RELEASED = {
    "text2img-large": (TEXT, 872_300_484),
    "cin256-v2": (IMAGENET_256.unet, 400_920_579),
    "cin256": (IMAGENET_256_F8.unet, 394_984_196),
}
SMALL = UNetConfig(
    sample_size=8,
    block_out_channels=(16, 32),
    down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
    up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
    attention_head_dim=8,
    norm_num_groups=4,
    cross_attention_dim=12,
)


@pytest.fixture(autouse=True)
def _without_gradients():
    with torch.no_grad():
        yield


def network(config: UNetConfig = SMALL, seed: int = 0) -> UNet:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return UNet(config).eval().requires_grad_(False)


def context(images: int = 2, tokens: int = 3, seed: int = 5) -> Tensor:
    return draw_noise(range(seed, seed + images), (1, tokens, 12))[:, 0]


@pytest.mark.parametrize("release", RELEASED)
def test_every_published_tensor_finds_its_place(release):
    """The names and shapes that the original code builds are those of the network, each once."""
    config, parameters = RELEASED[release]
    published = {
        key.removeprefix("model.diffusion_model."): shape
        for key, shape in published_shapes(release).items()
        if key.startswith("model.diffusion_model.")
    }
    own = {key: tuple(tensor.shape) for key, tensor in UNet(config, device="meta").state_dict().items()}
    sources = compvis_unet_sources(config)
    assert sources.keys() == own.keys()
    assert {source.key: own[ours] for ours, source in sources.items()} == published
    assert sum(torch.Size(shape).numel() for shape in own.values()) == parameters
    assert len({ema_key(key) for key in published}) == len(published)
    assert UNetConfig.from_dict(config.to_dict()) == config


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (None, r"context is none; this UNet expects \(2, tokens, 12\)"),
        (context(1), r"shape \(1, 3, 12\); this UNet expects \(2, tokens, 12\)"),
        (context()[..., :8], r"shape \(2, 3, 8\)"),
        (context()[:, 0], r"shape \(2, 12\)"),
        (context()[:, :0], r"shape \(2, 0, 12\)"),
    ],
)
def test_what_is_no_context_is_told(given, message):
    with pytest.raises(InputError, match=message):
        network()(draw_noise([1, 2], (3, 8, 8)), 1, given)


def test_a_superfluous_context_and_a_cache_are_told(tiny):
    with pytest.raises(InputError, match="this UNet expects none: it attends to nothing"):
        tiny.unet(draw_noise([1, 2], (3, 8, 8)), 1, context())
    with pytest.raises(InputError, match="The context is none"):
        DeepCache(network(), 2)


def test_a_network_that_attends_to_nothing_known_is_no_model():
    with pytest.raises(ConfigError, match="unet attends to a context 12 wide, and nothing says what makes it"):
        LDMConfig(unet=SMALL)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"cross_attention_dim": None},
            "down_block_types holds 'CrossAttnDownBlock2D'; supported are DownBlock2D, AttnDownBlock2D",
        ),
        (
            {"down_block_types": ("AttnDownBlock2D",) * 2},
            "holds 'AttnDownBlock2D'; supported are DownBlock2D, CrossAttnDownBlock2D",
        ),
        ({"transformer_layers_per_block": 0}, "transformer_layers_per_block is 0"),
        ({"downsample_type": "resnet"}, "downsample_type is 'resnet' and cross_attention_dim 12; supported.*'conv'"),
        ({"add_attention": False}, "add_attention is False"),
        ({"attn_norm_num_groups": 4}, "attn_norm_num_groups is 4"),
        ({"attention_head_dim": 5}, "32 channels cannot be split"),
    ],
)
def test_what_is_no_such_network_is_refused(change: dict[str, Any], message: str):
    with pytest.raises(ConfigError, match=message):
        replace(SMALL, **change)


@pytest.mark.parametrize("widths", [(16, 32), (20, 32), (4, 32), (64, 32)])
@pytest.mark.parametrize("head_dim", [8, 16, 32])
def test_what_is_written_is_read_whatever_the_levels_without_attention_have(widths, head_dim):
    config = replace(SMALL, block_out_channels=widths, attention_head_dim=head_dim)
    assert UNetConfig.from_dict(config.to_dict()) == config


def test_blocks_without_a_context_have_one_layer():
    with pytest.raises(ConfigError, match="transformer_layers_per_block is 2, and cross_attention_dim None"):
        UNetConfig(transformer_layers_per_block=2)


def test_an_image_depends_on_its_own_context_alone():
    """In float32, whose sums torch orders by the size of the batch: 1e-6."""
    unet, x, seen = network(), draw_noise([1, 2], (3, 8, 8)), context()
    both = unet(x, 7, seen)
    for image in range(2):
        alone = unet(x[image : image + 1], 7, seen[image : image + 1])[0]
        torch.testing.assert_close(both[image], alone, rtol=1e-5, atol=1e-6)
    assert not torch.allclose(both, unet(x, 7, seen.flip(0)))
    assert not torch.allclose(both, unet(x, 7, seen[:, :1]))


def test_the_order_of_tokens_does_not_count_and_a_token_given_twice_is_one():
    """There are no positions in it; softmax over two equal tokens is half and half."""
    unet, x, seen = network(), draw_noise([1, 2], (3, 8, 8)), context()
    torch.testing.assert_close(unet(x, 7, seen), unet(x, 7, seen.flip(1)), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(unet(x, 7, seen[:, :1]), unet(x, 7, seen[:, :1].expand(-1, 2, -1)), rtol=1e-5, atol=1e-6)


def test_a_shorter_format_takes_a_context_of_float32():
    unet, x, seen = network(), draw_noise([1, 2], (3, 8, 8)), context()
    exact = unet(x, 7, seen)
    set_precision(unet, "bf16")
    found = unet(x, 7, seen)
    assert found.dtype == torch.float32
    assert (found - exact).std() < 0.03 * exact.std()  # 8 bits of each number, over twenty layers


@pytest.mark.parametrize("tokens", [1, 3])
def test_a_recorded_evaluation_sees_each_context(tokens):
    """On the pretended card: what is recorded at the second call is repeated with the context of each later one."""
    unet = network()
    x, seen = draw_noise([1, 2], (3, 8, 8)), [context(tokens=tokens, seed=seed) for seed in range(4)]
    expected = [unet(x, 7, one) for one in seen]
    with pretend_card():
        unet.to("cuda")
        found = [unet(x.to("cuda"), 7, one.to("cuda")).cpu() for one in seen]
        assert len(unet._graphs._recorded) == 1
        unet.end_run()
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


def test_memory_counts_the_feed_forward():
    """It is the widest of what a level holds at a time: at the finest level it decides."""
    plain = replace(
        TEXT,
        cross_attention_dim=None,
        down_block_types=("AttnDownBlock2D",) * 3 + ("DownBlock2D",),
        up_block_types=("UpBlock2D",) + ("AttnUpBlock2D",) * 3,
    )
    more = unet_bytes(TEXT, 1, 32, 32) - unet_bytes(plain, 1, 32, 32)
    assert 0 < more < unet_bytes(plain, 1, 32, 32) - FIXED


def test_gradients_pass_a_transformer():
    unet = network()
    x, seen = draw_noise([1, 2], (3, 8, 8)), context(tokens=1).requires_grad_()
    with torch.enable_grad():
        unet(x, 7, seen).square().sum().backward()
    assert seen.grad is not None
    direction, small = torch.randn_like(seen), 1e-3
    with torch.no_grad():
        ahead, behind = (
            unet.double()(x.double(), 7, (seen + way * small * direction).double()).square().sum() for way in (1, -1)
        )
    torch.testing.assert_close(
        (seen.grad * direction).sum().double(), (ahead - behind) / (2 * small), rtol=1e-2, atol=1e-3
    )
