"""The two programs that speed.py compares, and the processes that they, and those of upscale.py, run in.

A program imports in `__init__`, loads in `load`; its other methods are tasks, each returning what it made as an array.
A whole picture takes minutes, in which a machine may change its pace: two sides draw theirs in turns of a few steps.
"""

from __future__ import annotations

import functools
import multiprocessing
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
from common import forget_peak, resident

SEED = 3
TIMESTEP = 500
DEMO = Path(__file__).parents[1] / "demo" / "portraits-128"
TURN = 10  # steps of a picture, until the other side goes on with its own


@functools.cache
def latents(batch: int, size: int = 64, channels: int = 3) -> Any:
    """The same (batch, channels, size, size) standard normal latents on both sides."""
    import torch

    return torch.randn((batch, channels, size, size), generator=torch.Generator().manual_seed(0))


class Clock:
    """Time of a task without its pauses, and the laps that it notes."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.laps: list[float] = []
        self.paused = 0.0
        self.turn = 0

    def start(self, turn: int) -> float:
        """Forget the task before; pause after each `turn` steps, never if that is 0. Returns: now."""
        self.laps.clear()
        self.paused, self.turn = 0.0, turn
        return self.now()

    def now(self) -> float:
        """Seconds, without pauses."""
        return time.perf_counter() - self.paused

    def step(self) -> None:
        """Note the end of a step; at the end of a turn, wait until told to go on."""
        self.laps.append(self.now())
        if self.turn and len(self.laps) % self.turn == 0:
            start = time.perf_counter()
            self.connection.send(None)
            self.connection.recv()
            self.paused += time.perf_counter() - start


class Ours:
    """ldm_backend."""

    def __init__(self, clock: Clock) -> None:
        import ldm_backend.pipeline
        import ldm_backend.sampling.noise
        import ldm_backend.sampling.samplers

        self.backend = ldm_backend
        self.clock = clock

    def load(self, folder: Path) -> None:
        """Both networks and the schedule from the folder of the weights."""
        self.model = self.backend.load(folder, device="cpu")

    def unet(self, batch: int) -> np.ndarray:
        """One evaluation of the UNet."""
        return self.model.unet(latents(batch), TIMESTEP).numpy()

    def decode(self, batch: int, size: int = 64) -> np.ndarray:
        """Quantise and decode in one batch."""
        return self.model.first_stage.decode(latents(batch, size)).numpy()

    def decode_pictures(self, batch: int) -> np.ndarray:
        """Decode to uint8, as `generate` does."""
        return self.backend.pipeline.decode_to_uint8(self.model, latents(batch))

    def image(self, steps: int, sampler: str = "ddim", grid: str = "leading") -> np.ndarray:
        """A whole picture; each step ends with one of the clock."""
        return self.backend.generate(
            self.model,
            [SEED],
            steps,
            sampler=sampler,
            grid=grid,
            callback=lambda _: self.clock.step(),
        )

    def load_demo(self) -> None:
        """The demo model, beside the other one."""
        self.demo = self.backend.load(DEMO, device="cpu")

    def solver(self, name: str, steps: int) -> np.ndarray:
        """Latents of a sampler on the demo model; as laps, the seconds of each evaluation of the network."""
        config = self.demo.config.unet
        x_T = latents(1, config.sample_size, config.in_channels)

        def eps_model(x: Any, t: float) -> Any:
            start = time.perf_counter()
            eps = self.demo.unet(x, t)
            self.clock.laps.append(time.perf_counter() - start)
            return eps

        step_noise = self.backend.sampling.noise.StepNoise([SEED], x_T.shape[1:])
        pairs = self.demo.schedule.timesteps(steps, "trailing")
        sample = self.backend.sampling.samplers.sample
        return sample(name, eps_model, x_T, self.demo.schedule, pairs, step_noise=step_noise).numpy()


class Diffusers:
    """diffusers' networks and scheduler, eager; the picture by the unrolled loop of the model card."""

    def __init__(self, clock: Clock) -> None:
        from diffusers.models.autoencoders.vq_model import VQModel
        from diffusers.models.unets.unet_2d import UNet2DModel
        from diffusers.schedulers.scheduling_ddim import DDIMScheduler

        self.classes: tuple[Any, ...] = (UNet2DModel, VQModel, DDIMScheduler)
        self.clock = clock

    def load(self, folder: Path) -> None:
        """Both networks and the schedule from the folder of the weights."""
        self.network, self.vq, self.scheduler = (
            cls.from_pretrained(folder, subfolder=part, local_files_only=True)
            for cls, part in zip(self.classes, ("unet", "vqvae", "scheduler"), strict=True)
        )

    def unet(self, batch: int) -> np.ndarray:
        """One evaluation of the UNet."""
        return self.network(latents(batch), TIMESTEP).sample.numpy()

    def decode(self, batch: int, size: int = 64) -> np.ndarray:
        """Quantise and decode in one batch."""
        return self.vq.decode(latents(batch, size)).sample.numpy()

    def decode_pictures(self, batch: int) -> np.ndarray:
        """Decode to uint8, as the model card does."""
        return self.to_uint8(self.vq.decode(latents(batch)).sample)

    def image(self, steps: int) -> np.ndarray:
        """The model card's picture; each step ends with one of the clock."""
        import torch

        config = self.network.config
        generator = torch.Generator().manual_seed(SEED)
        image = torch.randn((1, config.in_channels, config.sample_size, config.sample_size), generator=generator)
        self.scheduler.set_timesteps(num_inference_steps=steps)
        for t in self.scheduler.timesteps:
            residual = self.network(image, t)["sample"]
            image = self.scheduler.step(residual, t, image, eta=0.0)["prev_sample"]
            self.clock.step()
        return self.to_uint8(self.vq.decode(image)["sample"])

    @staticmethod
    def to_uint8(decoded: Any) -> np.ndarray:
        """The model card's last lines."""
        return ((decoded.permute(0, 2, 3, 1) + 1.0) * 127.5).clamp(0, 255).numpy().astype(np.uint8)


PROGRAMS = {"ours": Ours, "diffusers": Diffusers}


class Result(NamedTuple):
    """What a task took and made."""

    seconds: float  # without pauses
    laps: list[float]  # as the task wrote them; those of `image` are seconds from its start to the end of each step
    output: np.ndarray | None
    peak: float  # MiB resident at most during the task, above what was resident after the imports
    working_set: float  # MiB resident at most during the task, above what was resident before it


def serve(program_class: type, threads: int | None, connection: Connection) -> None:
    """Body of the measured process: run tasks until told to end."""
    import torch

    if threads:
        torch.set_num_threads(threads)
    clock = Clock(connection)
    program: Any = program_class(clock)
    connection.send(torch.get_num_threads())
    imports = resident()
    while task := connection.recv():
        name, arguments, turn = task
        forget_peak()
        before = resident()
        start = clock.start(turn)
        with torch.inference_mode(name not in {"load", "load_demo"}):
            output = getattr(program, name)(*arguments)
        seconds, peak = clock.now() - start, resident("VmHWM")
        laps = [lap - start for lap in clock.laps] if name == "image" else list(clock.laps)
        connection.send(Result(seconds, laps, output, peak - imports, peak - before))


class Worker(AbstractContextManager["Worker"]):
    """A fresh process with one of the programs in it, weights loaded; idle between tasks.

    Args:
        side: one of `programs`.
        folder: of the weights.
        threads: of torch; None leaves its default.
        programs: classes at the top of a module, by side.
    """

    def __init__(self, side: str, folder: Path, threads: int | None, programs: Mapping[str, type] = PROGRAMS) -> None:
        context = multiprocessing.get_context("spawn")
        self.side = side
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=serve, args=(programs[side], threads, theirs), daemon=True)
        self.process.start()
        theirs.close()  # so that the end of the process is noticed
        self.threads = self.receive("import")
        self.loaded = self.run("load", folder)

    def run(self, task: str, *arguments: Any) -> Result:
        """Do a task and wait for it."""
        self.connection.send((task, arguments, 0))
        return self.receive(task)

    def receive(self, task: str) -> Any:
        """What the process answers, None where it pauses, or why it cannot."""
        try:
            return self.connection.recv()
        except (EOFError, ConnectionResetError):
            self.process.join()
            raise SystemExit(
                f"The process of {self.side} ended with status {self.process.exitcode} in the task {task}; "
                "if nothing is printed above, it ran out of memory."
            ) from None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, error: object, *_: object) -> None:
        if error:
            self.process.kill()  # it may be in the midst of a long task
        elif self.process.is_alive():
            self.connection.send(None)
        self.process.join()


Message = tuple[str, tuple[Any, ...], int]  # a task, its arguments, and the steps of a turn


def images_in_turns(
    workers: Mapping[str, Worker], sides: tuple[str, ...], messages: Mapping[str, Message]
) -> dict[str, Result]:
    """A picture on each side, in turns of some steps; who was first in a round is last in the next.

    Args:
        workers: by side.
        sides: which, and who begins.
        messages: by side, what draws its picture.
    """
    results: dict[str, Result] = {}
    message: dict[str, Any] = dict(messages)
    while len(results) < len(sides):
        for side in [side for side in sides if side not in results]:
            workers[side].connection.send(message[side])
            message[side] = "go on"
            if (reply := workers[side].receive("image")) is not None:
                results[side] = reply
        sides = sides[::-1]
    return results
