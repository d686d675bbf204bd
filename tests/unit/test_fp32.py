"""float32 is IEEE float32 in our networks whatever a host has set, and torch's settings are put back to the bit."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest
import torch
from emulated_tf32 import EmulatedTF32, as_on_a_card, rounded

import ldm_backend
from ldm_backend.kernels import fp32
from ldm_backend.networks import tiled_decode, unet, vq
from ldm_backend.networks.deep_cache import DeepCache
from ldm_backend.networks.precision import set_precision
from ldm_backend.networks.tiled_decode import MIN_TILE, decode_tiled
from ldm_backend.sampling.noise import draw_noise
from ldm_backend.views import code_view

backends: Any = torch.backends  # its settings differ between versions, and a type checker knows few of them
KEYS = [("generic", "all"), *itertools.product(("cuda", "mkldnn"), ("all", "conv", "rnn", "matmul"))]
new_settings = pytest.mark.skipif(not fp32._HAS_OPERATORS, reason="torch before 2.9 has only the old settings")


def setting(backend: str, operator: str) -> str:
    return torch._C._get_fp32_precision_getter(backend, operator)


def put(key: tuple[str, str], value: str) -> None:
    torch._C._set_fp32_precision_setter(*key, value)


def told(read) -> object:
    """What a setting says, or that torch refuses to say."""
    try:
        return read()
    except RuntimeError:
        return "refused"


def everything() -> list[object]:
    """All that torch tells of float32, with every parent set to each value in turn, so that inheritance shows too."""
    old = [told(torch._C._get_cudnn_allow_tf32), told(torch._C._get_cublas_allow_tf32)]
    old.append(told(torch.get_float32_matmul_precision))
    if not fp32._HAS_OPERATORS:
        return old
    seen: list[object] = [setting(*key) for key in KEYS]
    for parent in (("generic", "all"), ("cuda", "all"), ("mkldnn", "all")):
        before = setting(*parent)
        if parent != ("generic", "all") and before == setting("generic", "all"):
            continue  # perhaps inherited: to set it would change it
        for value in ("ieee", "tf32", "none"):
            put(parent, value)
            seen.append([setting(*key) for key in KEYS])
        put(parent, before)
    return [*old, *seen, backends.cudnn.enabled, backends.mkldnn.enabled]


@pytest.fixture(autouse=True)
def _defaults() -> Iterator[None]:
    """torch as it starts, before and after."""
    yield
    assert not fp32._Arithmetic._kind, "a block was left open"
    torch.set_float32_matmul_precision("highest")
    torch._C._set_cudnn_allow_tf32(True)
    if fp32._HAS_OPERATORS:
        for key in KEYS:
            put(key, "tf32" if key in (("cuda", "conv"), ("cuda", "rnn")) else "none")


def start() -> None:
    """What a process starts with."""


def old_high() -> None:
    torch.set_float32_matmul_precision("high")


def old_medium() -> None:
    torch.set_float32_matmul_precision("medium")
    backends.cudnn.allow_tf32 = False


def new_generic() -> None:
    backends.fp32_precision = "tf32"


def new_generic_bf16() -> None:
    backends.fp32_precision = "bf16"


def new_cuda() -> None:
    backends.cudnn.fp32_precision = "tf32"
    backends.cudnn.conv.fp32_precision = "none"


def new_conv_and_matmul() -> None:
    backends.cudnn.conv.fp32_precision = "ieee"
    backends.cuda.matmul.fp32_precision = "tf32"


def new_bf16_on_the_cpu() -> None:
    backends.mkldnn.matmul.fp32_precision = "bf16"
    backends.mkldnn.conv.fp32_precision = "bf16"


def mixed() -> None:
    torch.set_float32_matmul_precision("high")
    backends.cudnn.allow_tf32 = False
    backends.cudnn.conv.fp32_precision = "tf32"
    backends.cuda.matmul.fp32_precision = "ieee"


HOSTS = [
    start,
    old_high,
    old_medium,
    *(
        pytest.param(host, marks=new_settings)
        for host in (new_generic, new_generic_bf16, new_cuda, new_conv_and_matmul, new_bf16_on_the_cpu, mixed)
    ),
]


def exact() -> bool:
    """Whether nothing may round now, and the old settings say so."""
    old = backends.cudnn.allow_tf32 or backends.cuda.matmul.allow_tf32
    rounding = {"tf32", "bf16"}
    kinds = {setting(*key) for key in KEYS if key not in (("generic", "all"),)} if fp32._HAS_OPERATORS else set()
    return not old and torch.get_float32_matmul_precision() == "highest" and not kinds & rounding


def tf32_allowed() -> bool:
    allowed = backends.cudnn.allow_tf32 and backends.cuda.matmul.allow_tf32
    if fp32._HAS_OPERATORS:
        kinds = {(backend, setting(backend, operator)) for backend, operator in KEYS if operator in ("conv", "matmul")}
        allowed = allowed and kinds == {("cuda", "tf32"), ("mkldnn", "ieee")}
    return bool(allowed)


@pytest.mark.parametrize("host", HOSTS)
def test_a_block_is_exact_and_leaves_everything_as_it_was(host):
    host()
    before = everything()
    with fp32.fp32():
        assert exact()
        with fp32.fp32():
            assert exact()
        with fp32.fp32(tf32=True):  # another network's, inside: the exact one counts on its promise
            assert exact()
        assert exact()
    assert everything() == before
    with fp32.fp32(tf32=True):
        assert tf32_allowed()
        with fp32.fp32():
            assert exact()
        assert tf32_allowed()
    assert everything() == before
    with pytest.raises(KeyError), fp32.fp32():
        raise KeyError
    assert everything() == before


@pytest.mark.parametrize("host", [start, old_high, old_medium])
def test_before_torch_2_9_the_old_settings_do(host, monkeypatch):
    monkeypatch.setattr(fp32, "_HAS_OPERATORS", False)
    host()
    before = everything()
    with fp32.fp32():
        assert exact()
    assert everything() == before
    with fp32.fp32(tf32=True):
        assert tf32_allowed()
    assert everything() == before


def test_blocks_of_threads_add_up():
    """The first to begin may be the last to end, and what holds meanwhile is exact for both."""
    before = everything()
    opened, close, seen = threading.Event(), threading.Event(), []

    def other() -> None:
        with fp32.fp32():
            opened.set()
            close.wait()
            seen.append(exact())

    with fp32.fp32():
        thread = threading.Thread(target=other)
        thread.start()
        opened.wait()
    assert exact()
    close.set()
    thread.join()
    assert seen == [True]
    assert everything() == before


def test_many_threads_leave_nothing_behind():
    before = everything()
    failures = []

    def work(tf32: bool) -> None:
        for _ in range(200):
            with fp32.fp32(tf32):
                if not tf32 and not exact():
                    failures.append("rounded")

    threads = [threading.Thread(target=work, args=(index % 2 == 0,)) for index in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert everything() == before


def test_a_block_takes_microseconds():
    """An evaluation takes milliseconds at least. The bound is loose, for busy machines."""
    begin = time.perf_counter()
    for _ in range(200):
        with fp32.fp32():
            pass
    assert (time.perf_counter() - begin) / 200 < 2e-3


def test_compiled_code_passes_by():
    """Within what others compile the block is none, and does not break the graph."""

    def double(x: torch.Tensor) -> torch.Tensor:
        with fp32.fp32():
            return 2 * x

    compiled = torch.compile(double, backend="eager", fullgraph=True)
    before = everything()
    assert compiled(torch.ones(2)).tolist() == [2, 2]
    assert everything() == before


# With TF32's rounding on the CPU.

DEMO = "demo/portraits-128"
SEEDS = [3, 4]


def test_rounding_keeps_ten_bits():
    x = torch.tensor([1.0, 1 + 2**-10, 1 + 2**-11, 1 + 2**-12, -1 - 2**-11, 3.0e38, 0.0])
    assert rounded(x).tolist() == pytest.approx([1, 1 + 2**-10, 1 + 2**-10, 1, -1 - 2**-10, 3.0e38, 0], rel=1e-3, abs=0)
    assert rounded(x)[:5].tolist() == [1, 1 + 2**-10, 1 + 2**-10, 1, -1 - 2**-10]
    assert rounded(x.double()).equal(x.double())


def test_the_emulation_follows_the_settings():
    x, kernel = torch.full((1, 1, 4, 4), 1 + 2**-12), torch.ones(1, 1, 1, 1)
    with EmulatedTF32() as emulation, torch.no_grad():
        assert torch.conv2d(x, kernel).unique().tolist() == [1]  # torch's default
        assert (x[0, 0] @ torch.eye(4)).unique().tolist() == [1 + 2**-12]
        assert emulation.operations == 1
        torch.set_float32_matmul_precision("high")
        assert (x[0, 0] @ torch.eye(4)).unique().tolist() == [1]
        torch.nn.functional.linear(x[0, 0], torch.eye(4), torch.ones(4))
        assert emulation.operations == 3
        with fp32.fp32():
            assert torch.conv2d(x, kernel).unique().tolist() == [1 + 2**-12]
        assert emulation.operations == 3


@pytest.fixture(scope="module")
def demo(root) -> ldm_backend.LatentDiffusion:
    model = ldm_backend.load(root / DEMO, device="cpu")
    as_on_a_card(model.unet)
    as_on_a_card(model.first_stage)
    return model


def picture(model: ldm_backend.LatentDiffusion, **settings) -> np.ndarray:
    return ldm_backend.generate(model, SEEDS, 8, sampler="unipc", grid="log_snr", **settings)


@pytest.fixture(scope="module")
def expected(demo) -> np.ndarray:
    return picture(demo)


@pytest.fixture
def loose() -> None:
    """A host that allows everything."""
    torch.set_float32_matmul_precision("medium")


def psnr(left: np.ndarray, right: np.ndarray) -> float:
    return float(10 * np.log10(255**2 / np.mean((left.astype(float) - right) ** 2)))


@pytest.mark.usefixtures("loose")
def test_the_default_path_is_not_touched(demo, expected):
    """The pictures are those without TF32, bit for bit, and not one operation was rounded."""
    with EmulatedTF32() as emulation:
        assert np.array_equal(picture(demo), expected)
        cached = picture(demo, cache_interval=2)
        assert emulation.operations == 0
    assert np.array_equal(cached, picture(demo, cache_interval=2))


@pytest.mark.usefixtures("loose")
@torch.no_grad()
def test_no_part_of_the_first_stage_is_touched(demo):
    z = draw_noise([1], (3, 2 * MIN_TILE, MIN_TILE))
    x = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    parts = {
        "decode": lambda: demo.first_stage.decode(z),
        "tiled": lambda: decode_tiled(demo.first_stage, z, MIN_TILE),
        "encode": lambda: demo.first_stage.encode(x),
        "input": lambda: demo.first_stage.decoder_input(z),
        "codes": lambda: demo.first_stage.quantize(z)[1],
        "view": lambda: code_view.view_codes(demo.first_stage, z).codes,
    }
    expected = {name: part() for name, part in parts.items()}
    with EmulatedTF32() as emulation:
        for name, part in parts.items():
            assert part().equal(expected[name]), name
            assert emulation.operations == 0, name


@pytest.mark.usefixtures("loose")
@torch.no_grad()
def test_without_the_block_everything_would_differ(demo, expected, monkeypatch):
    """So the tests above would see it missing."""
    for module in (unet, tiled_decode):
        monkeypatch.setattr(module, "fp32", lambda tf32=False: nullcontext())
    z = draw_noise([1, 2], (3, 32, 32))
    plain: Any = vars(vq.Codebook.forward)["__wrapped__"]
    codes = plain(demo.first_stage.quantize, z)[1]
    with EmulatedTF32() as emulation:
        assert psnr(picture(demo), expected) < 70
        assert emulation.operations > 0
        flipped = (plain(demo.first_stage.quantize, z)[1] != codes).float().mean().item()
    assert 0 < flipped < 0.2  # 1.1 %


@pytest.fixture
def tf32_demo(root) -> ldm_backend.LatentDiffusion:
    model = ldm_backend.load(root / DEMO, device="cpu")
    as_on_a_card(model.unet)
    as_on_a_card(model.first_stage)
    set_precision(model.unet, "tf32")
    return model


def test_tf32_states_what_it_changes(tf32_demo, expected):
    """Of the UNet alone; docs/precision.md has the figure. Without TF32 it is fp32."""
    assert np.array_equal(picture(tf32_demo), expected)
    with EmulatedTF32() as emulation:
        found = picture(tf32_demo)
    assert emulation.operations > 0
    assert 45 < psnr(found, expected) < 60  # 51.1 dB


@torch.no_grad()
def test_a_cache_takes_the_networks_precision(tf32_demo):
    x = draw_noise([1], (3, 32, 32))
    with EmulatedTF32() as emulation:
        DeepCache(tf32_demo.unet, 2)(x, 500.0)
        assert emulation.operations > 0
        operations = emulation.operations
        set_precision(tf32_demo.unet, "fp32")
        DeepCache(tf32_demo.unet, 2)(x, 500.0)
        assert emulation.operations == operations
