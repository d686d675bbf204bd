"""UNet and first stage on a tiny configuration of the real classes."""

from __future__ import annotations

import copy
import io
import pickle
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.nn.functional import scaled_dot_product_attention
from torch.utils._python_dispatch import TorchDispatchMode

from ldm_backend.config.model import UNetConfig
from ldm_backend.errors import InputError
from ldm_backend.networks import skip_init
from ldm_backend.networks.layers import attended_in_parts, timestep_embedding
from ldm_backend.networks.unet import UNet
from ldm_backend.sampling.noise import draw_noise


def test_timestep_embedding_is_cosines_then_sines():
    embedding = timestep_embedding(torch.tensor([0, 7]), 8)
    assert embedding[0].tolist() == [1.0] * 4 + [0.0] * 4
    assert embedding[1, 0] == pytest.approx(torch.tensor(7.0).cos().item())
    assert embedding[1, 7] == pytest.approx(torch.tensor(7.0 * 10000 ** (-3 / 4)).sin().item())


@torch.no_grad()
@pytest.mark.parametrize(("batch", "heads", "tokens", "width"), [(1, 1, 64, 512), (2, 1, 50, 320), (3, 2, 17, 8)])
@pytest.mark.parametrize("scores", [1, 700, 2**20])
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5), (torch.bfloat16, 2e-2)]
)
def test_attention_in_parts_is_that_of_torch(batch, heads, tokens, width, scores, dtype, tolerance):
    """One query at a time, some with fewer at the end, all at once; scores of some units, so that softmax decides."""
    q, k, v = (3 * draw_noise([seed], (3 * batch * heads, tokens, width))[0, : batch * heads] for seed in (1, 2, 3))
    q, k, v = ((x / 2).view(batch, heads, tokens, width).to(dtype) for x in (q, k, v))
    exact = scaled_dot_product_attention(q.double(), k.double(), v.double())
    found = attended_in_parts(q, k, v, scores)
    assert (found.dtype, found.shape) == (dtype, q.shape)
    assert (found.double() - exact).std() < tolerance * exact.std()


@torch.no_grad()
def test_attention_in_parts_holds_few_scores_at_a_time():
    q = torch.zeros(2, 1, 100, 512)
    seen: list[int] = []

    class Noted(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            if func.overloadpacket in (torch.ops.aten.baddbmm, torch.ops.aten._softmax):
                seen.append(out.numel())
            return out

    with Noted():
        attended_in_parts(q, q, q, 3000)
    assert seen == 2 * 6 * [3000] + 2 * [2000]


@torch.no_grad()
def test_timestep_may_be_a_number_a_scalar_or_one_for_each_image(tiny):
    x = draw_noise([1, 2], (3, 8, 8))
    expected = tiny.unet(x, 5)
    for t in (5.0, torch.tensor(5), torch.tensor([5]), torch.tensor([5, 5])):
        assert torch.equal(tiny.unet(x, t), expected)
    mixed = tiny.unet(x, torch.tensor([5, 900]))
    torch.testing.assert_close(mixed[0], expected[0])
    assert not torch.allclose(mixed[1], expected[1])


@torch.no_grad()
@pytest.mark.parametrize(("height", "width"), [(8, 8), (2, 2), (10, 4)])
def test_every_multiple_passes(tiny, height, width):
    x = draw_noise([1], (3, height, width))
    assert tiny.unet(x, 1).shape == x.shape


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((1, 4, 8, 8), r"expects \(N, 3, H, W\)"),
        ((3, 8, 8), r"expects \(N, 3, H, W\)"),
        ((1, 3, 8, 7), "nearest size is 8x8"),
        ((1, 3, 0, 8), "multiples of 2"),
    ],
)
def test_wrong_latents_are_named_with_what_fits(tiny, shape, message):
    with pytest.raises(InputError, match=message):
        tiny.unet(torch.zeros(shape), 1)


@torch.no_grad()
def test_codebook_takes_the_nearest_code(tiny):
    z = draw_noise([1, 2], (3, 8, 8))
    z_q, indices = tiny.vq.quantize(z)
    codes = tiny.vq.quantize.embedding.weight
    distances = (z.movedim(1, -1)[..., None, :] - codes).pow(2).sum(-1)
    assert torch.equal(indices, distances.argmin(-1))
    assert torch.equal(z_q, codes[indices].movedim(-1, 1))


@torch.no_grad()
def test_decoding_quantises_unless_told_otherwise(tiny):
    z = draw_noise([1], (3, 8, 8))
    z_q = tiny.vq.quantize(z)[0]
    assert tiny.vq.decode(z).shape == (1, 3, 32, 32)
    assert torch.equal(tiny.vq.decode(z), tiny.vq.decode(z_q, quantize=False))
    assert not torch.equal(tiny.vq.decode(z), tiny.vq.decode(z, quantize=False))


@torch.no_grad()
def test_encoding_does_not_quantise(tiny):
    z = tiny.vq.encode(draw_noise([1], (3, 32, 32)))
    assert z.shape == (1, 3, 8, 8)
    assert not torch.equal(z, tiny.vq.quantize(z)[0])


@pytest.mark.parametrize("shape", [(1, 4, 32, 32), (1, 3, 30, 32), (3, 32, 32)])
def test_images_that_cannot_be_encoded(tiny, shape):
    with pytest.raises(InputError, match="multiples of 4"):
        tiny.vq.encode(torch.zeros(shape))


def test_latents_that_cannot_be_decoded(tiny):
    with pytest.raises(InputError, match="another model family"):
        tiny.vq.decode(torch.zeros(1, 4, 8, 8))


def test_all_weights_come_from_the_operations_namespace(tiny):
    """A host replaces these four layers to stream or cast weights; nothing may bypass them."""
    made = []

    def recording(kind):
        class Recorded(kind):
            def __init__(self, *args, **kwargs):
                super().__init__(*args, **kwargs)
                made.append(self)

        return Recorded

    kinds = {kind.__name__: recording(kind) for kind in (nn.Linear, nn.Conv2d, nn.GroupNorm, nn.Embedding)}
    unet = UNet(tiny.config.unet, operations=SimpleNamespace(**kinds), device="meta")
    assert sum(p.numel() for layer in made for p in layer.parameters()) == sum(p.numel() for p in unet.parameters())


@pytest.fixture(params=["fresh", "evaluated"])
def unet_of_any_size(request) -> UNet:
    """With layers of every kind of convolution, whose kernels are kept once they were needed."""
    config = UNetConfig(
        sample_size=32,
        block_out_channels=(128, 128, 128),
        down_block_types=("DownBlock2D", "DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D", "UpBlock2D"),
        layers_per_block=1,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        unet = UNet(config, skip_init if request.param == "fresh" else torch.nn)
    with torch.no_grad():
        for weight in unet.parameters():
            weight.normal_(std=0.02, generator=torch.Generator().manual_seed(weight.numel()))
        if request.param == "evaluated":
            unet(draw_noise([3], (3, 32, 32)), 500)
            assert any("_copy" in layer.__dict__ for layer in unet.modules())
    return unet


def pickled(unet: UNet) -> UNet:
    return pickle.loads(pickle.dumps(unet))  # noqa: S301 - our own


def saved(unet: UNet) -> UNet:
    memory = io.BytesIO()
    torch.save(unet, memory)
    memory.seek(0)
    return torch.load(memory, weights_only=False)


@torch.no_grad()
@pytest.mark.parametrize("way", [copy.deepcopy, pickled, saved])
def test_a_network_can_be_copied_like_any_other(unet_of_any_size, way):
    unet, x = unet_of_any_size, draw_noise([3], (3, 32, 32))
    twin = way(unet)
    expected = unet(x, 500)
    assert not any("_copy" in layer.__dict__ for layer in twin.modules())
    assert type(twin.conv_in) is type(unet.conv_in)
    assert torch.equal(twin(x, 500), expected)
    for weight in twin.parameters():
        weight.mul_(1.1)
    assert not torch.equal(twin(x, 500), expected)
    assert torch.equal(unet(x, 500), expected)


@torch.no_grad()
def test_a_weight_that_is_changed_in_place_is_noticed(unet_of_any_size):
    """Any number of any layer: what is kept of the weights holds none of it."""
    unet, x = unet_of_any_size, draw_noise([3], (3, 32, 32))
    for name, weight in unet.named_parameters():
        if weight.ndim != 4:
            continue
        before = unet(x, 500)
        weight[-1].mul_(1.5)
        found = unet(x, 500)
        assert not torch.equal(found, before), name
        assert torch.equal(found, copy.deepcopy(unet)(x, 500)), name
