"""What the benchmarks share: memory of this process, weights of the real size, PSNR, spread, machine."""

from __future__ import annotations

import os
import platform
import re
import signal
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

SIDES = ("ours", "diffusers")
PACKAGES = ("torch", "safetensors", "diffusers", "accelerate")
DEMO_SCRIPTS = Path(__file__).parents[1] / "demo"
MIB = 2**20


def resident(field: str = "VmRSS", pid: int | str = "self") -> float:
    """Resident memory of a process in MiB; VmHWM is its peak."""
    match = re.search(rf"^{field}:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    if match is None:
        raise SystemExit("This benchmark reads memory from /proc, which this system does not have.")
    return int(match[1]) / 1024


def forget_peak() -> None:
    """Start the peak of resident memory anew."""
    Path("/proc/self/clear_refs").write_text("5")


def write_weights(folder: Path) -> None:
    """Random weights of the real size as diffusers saves them, and the schedule."""
    import torch
    from diffusers.models.autoencoders.vq_model import VQModel
    from diffusers.models.unets.unet_2d import UNet2DModel
    from diffusers.schedulers.scheduling_ddim import DDIMScheduler

    from ldm_backend.config.model import LDMConfig

    config = LDMConfig()
    torch.manual_seed(0)
    parts: tuple[tuple[str, Any, dict[str, Any]], ...] = (
        ("unet", UNet2DModel, config.unet.to_dict()),
        ("vqvae", VQModel, config.first_stage.to_dict()),
        ("scheduler", DDIMScheduler, config.schedule.to_dict()),
    )
    for name, cls, settings in parts:
        model: Any = cls.from_config(settings)
        if name == "vqvae":
            # Spread out as trained codes are: in diffusers' initial codebook all are within 1e-4 of each other, so
            # that rounding would choose.
            torch.nn.init.normal_(model.quantize.embedding.weight)
        model.save_pretrained(folder / name)


@contextmanager
def scratch_weights(within: str = ".", write: Callable[[Path], None] = write_weights) -> Iterator[Path]:
    """A scratch folder with weights in its subfolder `within`, which `write`, at the top of a module, fills.

    They are gigabytes, so they go also when SIGTERM ends this program, as `timeout` does; after SIGKILL the next one
    clears them away. Another process writes them, so that neither its memory nor its draws of random numbers are this
    one's.
    """
    from ldm_headless.host.scratch_folder import ScratchFolder

    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    folder = ScratchFolder()
    try:
        process = get_context("spawn").Process(target=write, args=(folder.path / within,), daemon=True)
        process.start()
        process.join()
        if process.exitcode:
            raise SystemExit("The weights could not be written; see above.")
        yield folder.path
    finally:
        folder.remove()


def demo_module(name: str) -> Any:
    """A module of demo/, whose scripts are no package."""
    if str(DEMO_SCRIPTS) not in sys.path:
        sys.path.append(str(DEMO_SCRIPTS))
    return import_module(name)


def spread(values: Sequence[float], form: str) -> str:
    """Median, and in brackets the least and the most."""
    low, middle, high = (format(value, form) for value in (min(values), statistics.median(values), max(values)))
    return f"{middle} ({low} to {high})"


def psnr(images: np.ndarray, exact: np.ndarray) -> list[float]:
    """Peak signal to noise ratio of each picture in dB."""
    errors = ((images.astype(float) - exact.astype(float)) ** 2).mean(axis=(1, 2, 3))
    return [float(10 * np.log10(255**2 / error)) if error else float("inf") for error in errors]


def machine() -> str:
    """Where and with what."""
    cpu = re.search(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    busy, cores = os.getloadavg()[0], len(os.sched_getaffinity(0))
    versions = ", ".join(f"{name} {installed(name)}" for name in PACKAGES)
    return (
        f"{time.strftime('%Y-%m-%d')}, {cpu[1] if cpu else platform.machine()}, {cores} cores, load average {busy:.1f} "
        f"at the end (this program itself makes about {cores}); Python {platform.python_version()}, {versions}."
    )


def installed(package: str) -> str:
    """Version of a package."""
    try:
        return version(package)
    except PackageNotFoundError:
        return "absent"
