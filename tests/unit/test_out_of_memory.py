"""Memory that really runs out: parts become smaller, the picture stays, and where nothing helps a message says so."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from ldm_backend.config.model import VQConfig
from ldm_backend.errors import InputError, TooLargeError
from ldm_backend.memory.chunks import Chunks, attempt, is_out_of_memory
from ldm_backend.networks.decoding import decoded
from ldm_backend.networks.deep_cache import DeepCache

ROOT = Path(__file__).parents[2]
CPU = torch.device("cpu")
NO_MACHINE_HAS = 2**58  # float32 values

# How much is right depends on the machine, and oneDNN may end the process in the last megabytes: run on demand.
exhausts = pytest.mark.skipif("LDM_EXHAUST" not in os.environ, reason="limits memory as Linux does; set LDM_EXHAUST=1")


def run_out() -> torch.Tensor:
    return torch.empty(NO_MACHINE_HAS)


def test_running_out_is_told_from_other_errors():
    with pytest.raises(RuntimeError) as caught:
        run_out()
    assert is_out_of_memory(caught.value)
    assert is_out_of_memory(MemoryError())
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory."))
    assert not is_out_of_memory(RuntimeError("shapes cannot be multiplied"))
    assert not is_out_of_memory(ValueError("can't allocate memory"))
    with pytest.raises(RuntimeError, match="of another kind"):
        attempt(lambda: (_ for _ in ()).throw(RuntimeError("of another kind")))
    assert attempt(run_out) is None


@pytest.mark.parametrize(
    "words",
    [
        "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79.15 GiB",
        "CUDA error: out of memory\nCompile with `TORCH_USE_CUDA_DSA` to enable device-side assertions.",
        "CUDA driver error: out of memory",
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
        "cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED",
        "cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_HOST_ALLOCATION_FAILED",
        "HIP out of memory. Tried to allocate 1.00 GiB",
        "MPS backend out of memory (MPS allocated: 8.00 GiB",
    ],
)
def test_the_words_of_a_card_without_memory_are_known(words):
    assert is_out_of_memory(RuntimeError(words))
    assert is_out_of_memory(getattr(torch, "AcceleratorError", RuntimeError)(words))


@pytest.mark.parametrize(
    "words",
    [
        "CUDA error: an illegal memory access was encountered",
        "CUDA error: device-side assert triggered",
        "CUDA error: no kernel image is available for execution on the device",
        "CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`",
        "CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasSgemm(handle)`",
        "cuDNN error: CUDNN_STATUS_NOT_SUPPORTED. This error may appear if you passed in a non-contiguous input.",
        "cuDNN error: CUDNN_STATUS_EXECUTION_FAILED",
        "GET was unable to find an engine to execute this computation",
        "Expected all tensors to be on the same device, but found at least two devices, cuda:0 and cpu!",
    ],
)
def test_other_errors_of_a_card_stay_what_they_are(words):
    """Fewer images would not help, and a message about memory would mislead."""
    assert not is_out_of_memory(RuntimeError(words))


def halves(limit: int, seen: list[int]):
    """Work on images that runs out with more than `limit` at once."""

    def work(part: slice) -> torch.Tensor:
        seen.append(part.stop - part.start)
        return run_out() if part.stop - part.start > limit else torch.arange(part.start, part.stop)[:, None]

    return work


def test_parts_are_halved_and_nothing_is_done_twice(caplog):
    seen, recovered = [], []
    chunks = Chunks("UNet", recover=lambda: recovered.append(1))
    made = chunks.whole(halves(3, seen), torch.Size((16, 3, 8, 8)), CPU, lambda n: 0)
    assert made.flatten().tolist() == list(range(16))
    assert seen == [16, 8, 4, 2, 2, 2, 2, 2, 2, 2, 2]
    assert [record.message for record in caplog.records] == [
        f"UNet: out of memory with {n} images at once; going on with {n // 2}" for n in (16, 8, 4)
    ]
    assert len(recovered) == 3
    seen.clear()
    chunks.whole(halves(3, seen), torch.Size((6, 3, 8, 8)), CPU, lambda n: 0)
    assert seen == [2, 2, 2], "what ran out once is not tried again at every step"
    seen.clear()
    chunks.whole(halves(3, seen), torch.Size((3, 3, 4, 4)), CPU, lambda n: 0)
    assert seen == [3], "smaller images are another matter"


def test_a_batch_of_which_part_fits_is_planned_so():
    seen: list[int] = []
    chunks = Chunks("UNet", free=lambda device: 10**9)
    made = chunks.whole(halves(99, seen), torch.Size((7, 3, 8, 8)), CPU, lambda n: n * 300_000_000)
    assert seen == [3, 3, 1]
    assert len(made) == 7


class Asked:
    """Free bytes of a device, and how often somebody wanted to know."""

    def __init__(self) -> None:
        self.times, self.free = 0, 10**9

    def __call__(self, device: torch.device) -> int:
        self.times += 1
        return self.free


def test_a_card_is_asked_once_for_a_shape_that_fits_and_the_cpu_each_time():
    card = torch.device("cuda", 0)  # only its name: the work is done here

    def asked_by(chunks: Chunks, device: torch.device, images: int, side: int = 8, fits: int = 99) -> int:
        before = free.times
        chunks.whole(halves(fits, []), torch.Size((images, 3, side, side)), device, lambda n: n * 200_000_000)
        return free.times - before

    free = Asked()
    chunks = Chunks("UNet", free)
    assert [asked_by(chunks, CPU, 4) for _ in range(3)] == [1, 1, 1]
    assert [asked_by(chunks, card, 4) for _ in range(3)] == [1, 0, 0]
    assert asked_by(chunks, card, 2) == 0, "fewer fit too"
    assert [asked_by(chunks, card, 5) for _ in range(2)] == [1, 0]
    assert [asked_by(chunks, torch.device("cuda", 1), 5), asked_by(chunks, card, 5, side=16)] == [1, 1]
    assert [asked_by(chunks, card, 7) for _ in range(3)] == [1, 1, 1], "a plan in parts is made anew"


def test_what_fitted_on_a_card_is_forgotten_when_it_runs_out():
    free, seen = Asked(), []
    chunks, shape, card = Chunks("UNet", free), torch.Size((4, 3, 8, 8)), torch.device("cuda", 0)
    for fits in (99, 99, 2, 99):
        chunks.whole(halves(fits, seen), shape, card, lambda n: n * 200_000_000)
    assert seen == [4, 4, 4, 2, 2, 2, 2]
    assert free.times == 2, "at first, and once after it ran out"
    free.free = 0
    seen.clear()
    chunks.whole(halves(1, seen), shape, card, lambda n: n * 200_000_000)
    assert seen == [2, 1, 1, 1, 1]


def test_an_image_that_does_not_fit_is_refused():
    chunks, shape = Chunks("UNet", free=lambda device: 10**9), torch.Size((2, 3, 16, 24))
    with pytest.raises(TooLargeError, match=r"UNet: one latent or image of 24x16 needs about 2\.0 GB"):
        chunks.whole(halves(99, []), shape, CPU, lambda n: n * 2 * 10**9)
    with pytest.raises(TooLargeError, match="Make the image smaller, or close other programs"):
        chunks.whole(halves(0, []), shape, CPU, lambda n: 0)


def test_an_empty_batch_stays_one():
    chunks = Chunks("UNet")
    assert chunks.whole(lambda part: torch.ones(0, 3), torch.Size((0, 3, 8, 8)), CPU, lambda n: n).shape == (0, 3)


def test_a_cache_that_runs_out_says_what_to_do(tiny):
    """Its features belong to the whole batch."""
    cache = DeepCache(tiny.unet, 2)
    huge = torch.zeros(1, 1, 1, 1).expand(2**40, 3, 8, 8)  # no memory itself
    with pytest.raises(InputError, match="set cache_interval to 1"):
        cache(huge, 1.0)


# A child: the result without a limit, then again with as little address space as is said, then what was logged.
CHILD = """
import logging, resource, sys
import torch
import ldm_backend
from ldm_backend.memory.chunks import Chunks
from ldm_backend.networks.decoding import decoded
from ldm_backend.sampling.noise import draw_noise
from ldm_backend.pipeline import evaluation
from resident import resident

logging.basicConfig(level=logging.WARNING, format="LOG %(message)s", stream=sys.stdout)
model = ldm_backend.load(sys.argv[1], device="cpu")

def unet():
    return evaluation(model)(draw_noise(range(64), (3, 64, 64)), 500.0)

def decoder():
    z = draw_noise([1], (3, 128, 128))
    return torch.cat([images for _, images in decoded(model.first_stage, z, model.device, Chunks("Decoder"))])

work = {"unet": unet, "decoder": decoder}[sys.argv[2]]
with torch.inference_mode():
    expected = work()
    ldm_backend.kernels.fast_conv.rest(model.unet)
    ldm_backend.kernels.fast_conv.rest(model.first_stage)
    limit = resident(field="VmSize") + int(sys.argv[3]) * 2**20
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    try:
        made = work()
    except ldm_backend.LDMError as error:
        print(type(error).__name__, error)
        raise SystemExit(0)
    print("DIFFERENCE", float((made - expected).abs().max() / expected.std()))
"""


def limited(what: str, mebibytes: int) -> str:
    """What the child prints with that much more address space than it has."""
    settings = {
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": f"{ROOT}:{ROOT / 'tests' / 'support' / 'devices'}",
        "MALLOC_ARENA_MAX": "1",
    }
    command = [sys.executable, "-c", CHILD, str(ROOT / "demo" / "portraits-128"), what, str(mebibytes)]
    run = subprocess.run(command, env=settings, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    return run.stdout


@exhausts
def test_unet_goes_on_in_smaller_parts():
    """64 latents want some 700 MB; the eps of the parts is that of the whole."""
    output = limited("unet", 300)
    assert "LOG UNet: out of memory with 64 images at once; going on with 32" in output
    assert float(output.split("DIFFERENCE")[1]) < 1e-4


@exhausts
def test_decoder_goes_on_in_tiles():
    """One picture of 512 pixels wants some 150 MB; that of the tiles is the same."""
    output = limited("decoder", 60)
    assert "Trying tiles, which show the same picture." in output
    assert float(output.split("DIFFERENCE")[1]) < 1e-4


@pytest.mark.parametrize(
    ("kind", "at_most", "sizes"), [("cuda", 1, [8, 8, 4]), ("cpu", 1, [1] * 20), ("cpu", None, [20])]
)
def test_a_card_decodes_some_images_at_once(kind, at_most, sizes):
    """What tells where to compute is the argument alone; here no network runs."""
    seen: list[int] = []

    class Stage:
        config, dtype = VQConfig(), torch.float32

        def decode(self, z):
            seen.append(len(z))
            return z

    class Latents(torch.Tensor):
        def to(self, *_):  # pyright: ignore[reportIncompatibleMethodOverride] - no card to go to
            return self

    z = torch.zeros(20, 3, 8, 8).as_subclass(Latents)
    stage: Any = Stage()
    parts = decoded(stage, z, torch.device(kind), Chunks("Decoder", free=lambda _: 2**40), at_most)
    assert [part.stop - part.start for part, _ in parts] == seen == sizes


def test_where_nothing_fits_a_message_says_so(tiny):
    """Not even tiles, on a machine that has nothing free."""
    z = torch.zeros(1, 1, 1, 1).expand(1, tiny.config.first_stage.z_channels, 4096, 4096)  # no memory itself
    chunks = Chunks("Decoder", free=lambda device: 0)
    with pytest.raises(TooLargeError, match="do not fit into memory even in tiles of 16 cells"):
        next(decoded(tiny.first_stage, z, CPU, chunks))
