"""Shorter number formats and compiling change the network's arithmetic, and nothing around it."""

from __future__ import annotations

import copy
import logging
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch._dynamo.utils
import torch._inductor.config

import ldm_backend
from ldm_backend.config.model import KLConfig, UNetConfig, VQConfig
from ldm_backend.errors import ConfigError
from ldm_backend.kernels import compiled
from ldm_backend.kernels.fast_conv import LARGE_TILE, SMALL_TILE
from ldm_backend.networks.first_stage import build_first_stage
from ldm_backend.networks.precision import resolve, set_first_stage_precision, set_precision
from ldm_backend.networks.unet import UNet
from ldm_backend.pipeline import decode_to_uint8, sample_latents
from ldm_backend.sampling.samplers import StepInfo

SHORT = {"bf16": torch.bfloat16, "fp16": torch.float16}


def psnr(picture: np.ndarray, other: np.ndarray) -> float:
    return 10 * np.log10(255**2 / np.mean((picture.astype(float) - other) ** 2))


@pytest.fixture
def compiler(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A folder of its own for what torch compiles: torch would name its own in the environment of all later tests."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "inductor"))


@pytest.fixture
def latents() -> torch.Tensor:
    return torch.randn((2, 3, 8, 8), generator=torch.Generator().manual_seed(0))


def test_auto_is_exact_on_the_cpu_and_short_on_cuda():
    assert [resolve("auto", device) for device in ("cpu", "cuda", torch.device("cuda", 1))] == ["fp32", "fp16", "fp16"]
    assert resolve("bf16", "cpu") == "bf16"
    with pytest.raises(ConfigError, match="precision is 'fp8'; choose one of fp32, auto, bf16, fp16, tf32"):
        resolve("fp8", "cpu")


def test_tf32_is_for_cuda_and_elsewhere_exact(tiny_folder, latents, caplog):
    assert resolve("tf32", "cuda") == "tf32"
    assert not caplog.records
    model = ldm_backend.load(tiny_folder, device="cpu", precision="tf32")
    assert "Precision tf32 is for NVIDIA's cards; on cpu the network computes in fp32, exactly." in caplog.messages
    assert not model.unet.tf32
    assert model.unet(latents, 500).equal(ldm_backend.load(tiny_folder, device="cpu").unet(latents, 500))
    set_precision(model.unet, "tf32")
    assert model.unet.tf32
    assert {tensor.dtype for tensor in model.unet.state_dict().values()} == {torch.float32}
    set_precision(model.unet, "fp32")
    assert not model.unet.tf32


@pytest.mark.parametrize(("name", "dtype"), SHORT.items())
def test_only_the_inner_layers_are_short(tiny_folder, name, dtype, latents):
    model = ldm_backend.load(tiny_folder, device="cpu", precision=name)
    formats = {key: tensor.dtype for key, tensor in model.unet.state_dict().items()}
    assert {formats[key] for key in formats if key.startswith("time_embedding.")} == {torch.float32}
    assert {formats[key] for key in formats if not key.startswith("time_embedding.")} == {dtype}
    assert {tensor.dtype for tensor in model.first_stage.state_dict().values()} == {torch.float32}
    assert model.unet(latents, 500).dtype == torch.float32
    assert model.unet(latents.to(dtype), torch.tensor([500, 3])).dtype == dtype  # as a host may call it
    steps: list[StepInfo] = []
    ldm_backend.generate(model, seeds=[3], steps=2, callback=steps.append)
    ldm_backend.generate(model, seeds=[3], steps=2, callback=steps.append, cache_interval=2)
    assert {tensor.dtype for info in steps for tensor in (info.x_prev, info.pred_x0)} == {torch.float32}


@pytest.mark.parametrize("name", SHORT)
def test_a_short_format_is_near_the_exact_network(tiny_folder, name, latents):
    """Twice the format's rounding, 2^-9 and 2^-12, times the square root of some 20 layers."""
    exact, short = (ldm_backend.load(tiny_folder, device="cpu", precision=p).unet(latents, 500) for p in ("fp32", name))
    error = (short - exact).std() / exact.std()
    assert 0 < error < {"bf16": 2e-2, "fp16": 2.5e-3}[name]


def test_pictures_of_the_demo_in_bf16(request):
    """docs/precision.md says what to expect of more seeds; a time embedding in bf16, for one, falls below this."""
    folder = request.config.rootpath / "demo" / "portraits-128"
    exact, short = (ldm_backend.load(folder, device="cpu", precision=precision) for precision in ("fp32", "bf16"))
    seeds = [4, 6]
    pictures = zip(*(ldm_backend.generate(model, seeds, 20) for model in (exact, short)), strict=True)
    assert min(psnr(*pair) for pair in pictures) > 30


def test_a_copied_network_keeps_no_trace(tiny, latents):
    """Precision is the weights' own: back in float32, what remains is their rounding."""
    unet = UNet(tiny.config.unet).eval()
    unet.load_state_dict(tiny.unet.state_dict())
    set_precision(unet, "fp16")
    set_precision(unet, "fp32")
    with torch.no_grad():
        torch.testing.assert_close(unet(latents, 500), tiny.unet(latents, 500), rtol=0, atol=2e-3)


def test_only_encoder_and_decoder_of_the_first_stage_are_short(tiny_folder, latents):
    model = ldm_backend.load(tiny_folder, device="cpu", first_stage_precision="bf16")
    formats = {key: tensor.dtype for key, tensor in model.first_stage.state_dict().items()}
    short = {key for key in formats if key.startswith(("encoder.", "decoder."))}
    assert {formats[key] for key in short} == {torch.bfloat16}
    assert {formats[key] for key in formats.keys() - short} == {torch.float32}
    assert {tensor.dtype for tensor in model.unet.state_dict().values()} == {torch.float32}
    images = model.first_stage.decode(latents)
    assert images.dtype == model.first_stage.encode(images).dtype == torch.float32
    with pytest.raises(ConfigError, match="first_stage_precision is 'fp16'; choose one of fp32, bf16"):
        ldm_backend.load(tiny_folder, device="cpu", first_stage_precision="fp16")


@torch.no_grad()
@pytest.mark.parametrize("config", [VQConfig, KLConfig], ids=["vq", "kl"])
def test_a_short_first_stage_is_near_the_exact_one_and_keeps_the_codes(config, latents):
    """Five times the rounding of bf16, 2^-9, times the square root of some 20 layers."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        stage = build_first_stage(config(block_out_channels=(32, 32, 64), layers_per_block=1)).eval()
    z = torch.cat([latents, latents[:, : stage.config.z_channels - 3]], dim=1)
    inputs, images = stage.decoder_input(z), stage.decode(z)
    encoded = stage.encode(images)
    set_first_stage_precision(stage, "bf16")
    assert stage.decoder_input(z).equal(inputs)
    for short, exact in ((stage.decode(z), images), (stage.encode(images), encoded)):
        assert 0 < (short - exact).std() < 5e-2 * exact.std()


def test_the_norms_of_a_short_format_have_exact_statistics():
    """Their result is that of float32, rounded: two neighbours of bf16 at most, where it lay between them."""
    norm = torch.nn.GroupNorm(4, 32, eps=1e-6)
    x = (100 + torch.randn((1, 32, 96, 96), generator=torch.Generator().manual_seed(0))).bfloat16()
    with torch.no_grad():
        exact = norm(x.float())
        torch.testing.assert_close(norm.bfloat16()(x).float(), exact, rtol=2**-8, atol=2**-12)


def test_pictures_of_the_demo_with_a_first_stage_in_bf16(request):
    """docs/precision.md says what to expect of more seeds."""
    folder = request.config.rootpath / "demo" / "portraits-128"
    exact, short = (
        ldm_backend.load(folder, device="cpu", first_stage_precision=precision) for precision in ("fp32", "bf16")
    )
    z = sample_latents(exact, [4, 6], 5)
    pictures = zip(*(decode_to_uint8(model, z) for model in (exact, short)), strict=True)
    assert min(psnr(*pair) for pair in pictures) > 40


@pytest.fixture
def small(tiny) -> UNet:
    """In float64, for in float32 nothing is compiled on the CPU, and shorter formats hide small differences."""
    return UNet(tiny.config.unet).double().eval().requires_grad_(False)


def test_compiling_is_asked_for_when_loading(tiny_folder):
    assert ldm_backend.load(tiny_folder, device="cpu", compiled=True).unet.compiled is not None
    assert ldm_backend.load(tiny_folder, device="cpu").unet.compiled is None


@pytest.mark.slow
@pytest.mark.usefixtures("compiler")
def test_compiled_is_the_same_network(small, latents):
    """Timesteps do not compile anew."""
    compilations = torch._dynamo.utils.counters["stats"]
    x, times = latents.double(), (500, torch.tensor([3.5, 3.5]))
    expected = [small(x, t) for t in times]
    small.compile_evaluation()
    found = [small(x, times[0])]
    before = compilations["unique_graphs"]
    found.append(small(x, times[1]))
    assert before == compilations["unique_graphs"] > 0
    for one, other in zip(found, expected, strict=True):
        assert (one - other).abs().max() < 1e-6 * other.std()  # the sinusoids are float32


@torch.no_grad()
def test_in_float32_on_the_cpu_the_finest_level_has_larger_kernels_and_nothing_compiles():
    """As near to the sums in float64 as docs/precision.md allows between this network and diffusers'."""
    plain = UNet(UNetConfig(sample_size=64, block_out_channels=(128, 128, 128, 128), layers_per_block=1))
    exact, fast = copy.deepcopy(plain).double(), copy.deepcopy(plain)
    fast.compile_evaluation()
    x = torch.randn((2, 3, 64, 64), generator=torch.Generator().manual_seed(0))
    compiled_before = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    expected, found = exact(x.double(), 500), plain(x, 500)
    assert (found - expected).abs().max() < 2e-5 * expected.std()
    assert fast(x, 500).equal(found)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == compiled_before
    tiles = [{layer.kept_tile for layer in part.modules() if hasattr(layer, "kept_tile")} for part in plain.down_blocks]
    assert tiles == [{LARGE_TILE}, {SMALL_TILE}, {SMALL_TILE}, {SMALL_TILE}]


@pytest.mark.slow
@pytest.mark.usefixtures("compiler")
def test_without_a_compiler_it_runs_uncompiled_and_says_so_once(small, latents, caplog):
    other_size, times = latents[:, :, :4, :4].double(), (500, 3)  # nothing of this size lies in torch's folder
    expected = [small(other_size, t) for t in times]
    small.compile_evaluation()
    with caplog.at_level(logging.WARNING), torch._inductor.config.patch({"cpp.cxx": ("no-such-compiler",)}):
        found = [small(other_size, t) for t in times]
    assert all(one.equal(other) for one, other in zip(found, expected, strict=True))
    assert [record.message for record in caplog.records if "compile" in record.message] != []
    assert sum("so the network runs uncompiled" in record.message for record in caplog.records) == 1


@pytest.mark.slow
@pytest.mark.usefixtures("compiler")
def test_many_shapes_are_compiled_and_beyond_that_it_says_so(monkeypatch, caplog):
    """torch itself stops at 8 for the whole process, without an error."""
    monkeypatch.setattr(compiled, "MAX_SHAPES", 10)
    network = SimpleNamespace(dtype=torch.float64)
    evaluation = compiled.Compiled(_doubled)
    before = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            for side in range(2, 13):
                x = torch.ones((1, 1, side, side), dtype=torch.float64)
                assert evaluation(network, x, x[0, 0, 0]).equal(2 * x)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] - before == 10
    told = [message for message in caplog.messages if "runs uncompiled" in message]
    assert told[0] == (
        "The network has been compiled for 10 shapes of latents. For a batch of shape (1, 1, 12, 12) it runs "
        "uncompiled: the same picture, more slowly. Load the checkpoint again to compile for other shapes."
    )
    assert len(told) == 1


def _doubled(_network: object, x: torch.Tensor, _t: torch.Tensor) -> torch.Tensor:
    return x + x


def test_for_a_card_kernels_are_laid_out_as_compiled_code_reads_them(small):
    before = {name: weight.clone() for name, weight in small.state_dict().items()}
    compiled._lay_channels_last(small, torch.device("cuda"))  # none of these is there
    assert all(weight.is_contiguous() for weight in small.state_dict().values())
    compiled._lay_channels_last(small, torch.device("cpu"))
    for name, weight in small.state_dict().items():
        assert weight.equal(before[name])
        assert weight.ndim != 4 or weight.is_contiguous(memory_format=torch.channels_last)
