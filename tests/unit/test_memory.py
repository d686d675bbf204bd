"""Memory is estimated near what is really used, and what does not fit is refused with what would."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from resident import MIB

import ldm_backend
from ldm_backend.checkpoints.checkpoint import read_checkpoint
from ldm_backend.config.presets import CELEBAHQ_256, PRESETS
from ldm_backend.errors import InputError, TooLargeError
from ldm_backend.memory import free_memory
from ldm_backend.memory.estimates import (
    FIXED,
    SLACK,
    Size,
    check_fits,
    decoder_bytes,
    encoder_bytes,
    evaluation_bytes,
    in_words,
    largest,
    tiled_decode_bytes,
    unet_bytes,
)
from ldm_backend.networks import decoding
from ldm_backend.networks.conditioned import check_conditioned
from ldm_backend.networks.decoding import check_decoding
from ldm_backend.throughput import best_batch

ROOT = Path(__file__).parents[2]
PROGRAM = ROOT / "tests" / "support" / "devices" / "memory_peaks.py"

needs_linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux tells the peak of memory")

# An estimate is never below the peak, or the system would end the process, and at most this many times as large, or
# what fits would be refused. 12 MiB of either are the allocator's.
FACTOR = 2.5
GRAIN = 12 * MIB


@pytest.mark.slow
@needs_linux
def test_estimates_are_near_the_measured_peak():
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": f"{ROOT}:{PROGRAM.parent}"}
    command = [sys.executable, str(PROGRAM), str(ROOT / "demo" / "portraits-128")]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    found = json.loads(run.stdout)
    assert len(found) >= 12
    too_low = {name: row for name, row in found.items() if row[1] > row[0] + GRAIN}
    too_high = {name: row for name, row in found.items() if row[0] > FACTOR * row[1] + GRAIN}
    # One estimate serves all samplers, so that it is near the hungriest of them only.
    most = max(row[1] for name, row in found.items() if name.startswith("latents of "))
    too_high = {
        name: row for name, row in too_high.items() if not name.startswith("latents of ") or row[0] > FACTOR * most
    }
    # Nor does one know how a CPU computes in bf16: with instructions for it a third of the memory is enough.
    if "avx512_bf16" in Path("/proc/cpuinfo").read_text():
        too_high = {name: row for name, row in too_high.items() if not name.endswith(" in bf16")}
    assert (too_low, too_high) == ({}, {}), found


def test_memory_of_an_evaluation_grows_with_images_and_area_alone():
    """Attention works in blocks: no term with the square of the area. The test above holds it at two sizes."""

    def grown(*size: int) -> int:
        return unet_bytes(CELEBAHQ_256.unet, *size) - FIXED

    one = grown(1, 64, 64)
    assert grown(3, 64, 64) == pytest.approx(3 * one, rel=1e-6)
    assert grown(1, 128, 128) == pytest.approx(4 * one, rel=1e-6)
    assert grown(1, 64, 64, 2) == pytest.approx(one / 2, rel=1e-6)


def test_a_picture_of_2048_pixels_fits_into_6_gb():
    """By the estimates for the released model for super-resolution, besides its weights and the program."""
    config = PRESETS["super-resolution-4x"]
    weights = 4 * (113_622_563 + 55_322_782)
    free = 6 * 10**9 - weights - 400 * MIB
    check_conditioned("Sampling", config, 4, (1, 3, 512, 512), free)
    needed = evaluation_bytes(config.unet, 1, 512, 512), tiled_decode_bytes(config.first_stage, 512, 512, 64)
    assert max(needed) < free
    # What was measured of each, beyond weights and program.
    assert needed[0] > 2.1e9
    assert needed[1] > 2.6e9


def test_what_cannot_be_decoded_is_refused_before_it_is_sampled(tiny, monkeypatch):
    monkeypatch.setattr(decoding, "free_bytes", lambda _: 150 * MIB)
    monkeypatch.setattr(type(tiny.unet), "forward", lambda *_: pytest.fail("it was sampled"))
    with pytest.raises(TooLargeError, match=r"Decoding: 1 image of 8192x8192 pixels .* What fits: 1 image of"):
        ldm_backend.generate(tiny, [1], steps=1, height=8192, width=8192)
    monkeypatch.setattr(decoding, "free_bytes", lambda _: 0)
    check_decoding(tiny.first_stage, 1, (9999, 9999), torch.device("cuda"))


def test_memory_of_the_first_stage_follows_its_format():
    """The pictures stay float32."""
    config, sides = CELEBAHQ_256.first_stage, (64, 64)
    pixels = 3 * 256**2
    for cost, size in ((decoder_bytes, sides), (encoder_bytes, (256, 256))):
        exact, short = (cost(config, 1, *size, itemsize) - FIXED for itemsize in (4, 2))
        assert short - exact / 2 == pytest.approx(SLACK * 2 * pixels, rel=1e-6)
    exact, short = (tiled_decode_bytes(config, 256, 256, 64, itemsize) - FIXED for itemsize in (4, 2))
    assert exact / 2 < short < 0.6 * exact


@pytest.mark.parametrize(
    ("size", "words"),
    [
        (Size(10, 64, 64), "Test: 10 images of 64x64 pixels would take 41 MB of memory, and 10 MB are free. What fits: "
         "2 images of this size, or 10 images of 32x32 pixels."),
        (Size(1, 128, 256), "What fits: 1 image of 160x64 pixels."),
        (Size(2000, 64, 64, "frames"), "Test: 2000 frames of 64x64 pixels would take 8.2 GB of memory, and 10 MB are "
         "free. What fits: 2 frames of this size."),
        (Size(1, 320000, 32), "What fits: 1 image of 32x320 pixels."),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused_with_what_would(size, words):
    with pytest.raises(InputError) as caught:
        check_fits("Test", size, lambda n, h, w: 1000 * n * h * w, 10_240_000)
    assert words in str(caught.value)


def test_what_fits_is_let_through_and_nothing_fits_where_nothing_is_free():
    check_fits("Test", Size(10, 32, 32), lambda n, h, w: 1000 * n * h * w, 10_240_000)
    with pytest.raises(TooLargeError, match=r"and 0 MB are free\. Ask for fewer and smaller ones"):
        check_fits("Test", Size(1, 32, 32), lambda n, h, w: n * h * w, -5)


@pytest.mark.parametrize("most", [0, 1, 7, 100])
def test_the_largest_number_that_fits(most):
    assert largest(100, lambda n: n <= most) == most
    assert largest(0, lambda n: True) == 0


def test_bytes_in_words():
    assert [in_words(n) for n in (0, 823_400_000, 999_999_999, 21_440_000_000)] == [
        "0 MB",
        "823 MB",
        "1000 MB",
        "21.4 GB",
    ]


def test_a_batch_that_does_not_fit_is_refused_before_anything_is_drawn(tiny):
    """A thousand million seeds, as a sequence that takes no memory itself."""
    with pytest.raises(
        TooLargeError, match=r"Sampling: 1000000000 images of 32x32 pixels would take .* What fits: \d+ images"
    ):
        ldm_backend.generate(tiny, seeds=range(10**9), steps=1)


@needs_linux
def test_free_memory_is_what_the_system_says():
    with Path("/proc/meminfo").open() as file:
        available = next(int(line.split()[1]) * 1024 for line in file if line.startswith("MemAvailable"))
    free = free_memory.free_bytes(torch.device("cpu"))
    assert free <= available + 512 * MIB


@pytest.mark.parametrize("version", [1, 2])
def test_limits_of_a_container_count(tmp_path, monkeypatch, version):
    """The group itself has no limit, the one around it has; files in the page cache do not count as used."""
    folder = tmp_path / "memory" if version == 1 else tmp_path
    limit, used, cache = (
        ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_cache")
        if version == 1
        else ("memory.max", "memory.current", "file")
    )
    (folder / "outer" / "inner").mkdir(parents=True)
    (folder / "outer" / "inner" / limit).write_text("max\n" if version == 2 else f"{2**63 - 4096}\n")
    (folder / "outer" / "inner" / used).write_text("1\n")
    (folder / "outer" / limit).write_text("1000\n")
    (folder / "outer" / used).write_text("700\n")
    (folder / "outer" / "memory.stat").write_text(f"anon 5\n{cache} 100\n")
    groups = tmp_path / "groups"
    groups.write_text("9:cpu:/x\n4:memory:/outer/inner\n" if version == 1 else "0::/outer/inner\n")
    monkeypatch.setattr(free_memory, "_OWN_GROUPS", groups)
    monkeypatch.setattr(free_memory, "_GROUPS", tmp_path)
    assert free_memory.container_limit() == 1000
    assert free_memory.container_free() == 400
    assert free_memory.free_bytes(torch.device("cpu")) == 400


def test_no_limits_are_boundless(tmp_path, monkeypatch):
    monkeypatch.setattr(free_memory, "_OWN_GROUPS", tmp_path / "absent")
    monkeypatch.setattr(free_memory, "_MEMINFO", tmp_path / "absent")
    assert free_memory.container_limit() == free_memory.free_bytes(torch.device("cpu")) == free_memory.UNKNOWN


def test_the_best_batch_is_as_large_as_pays_and_no_larger_than_fits(tiny_folder, tmp_path, monkeypatch):
    checkpoint, cpu = read_checkpoint(tiny_folder), torch.device("cpu")
    assert best_batch(checkpoint, cpu, 4) == 8
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemAvailable: 1 kB\n")
    monkeypatch.setattr(free_memory, "_MEMINFO", meminfo)
    assert best_batch(checkpoint, cpu, 4) == 1
