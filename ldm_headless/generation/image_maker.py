"""The worker of `ldm generate`: a loaded model that turns batches of seeds into PNGs. Imports ldm_backend and torch."""

import hashlib
import json
import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

import ldm_backend
from ldm_backend.checkpoints.checkpoint import Checkpoint, read_checkpoint
from ldm_backend.checkpoints.file_marks import FileMark
from ldm_backend.checkpoints.identity import identity_of_unet
from ldm_backend.checkpoints.inspection import sha256_of
from ldm_backend.checkpoints.shards import weight_files
from ldm_backend.checkpoints.single_file import config_to_json
from ldm_backend.config.conditioning import CLASS_CONDITIONAL, TEXT_CONDITIONAL, UNCONDITIONAL, check_task
from ldm_backend.errors import LDMError, printable
from ldm_backend.fitting.files import read_fitted_steps
from ldm_backend.hub.models import local_path
from ldm_backend.memory.sizes import latent_size
from ldm_backend.networks.precision import FORMATS, resolve
from ldm_backend.sampling.fitted import FITTED, FittedSteps
from ldm_backend.sampling.samplers import AUTO, StepInfo, adds_noise, grid_of, pairs_of_run
from ldm_backend.sampling.schedule import Schedule
from ldm_backend.throughput import best_batch

from ..errors import GenerationError, JobError
from ..files.png import encode_png, pixels_sha256
from .job import Computation, Settings, Unit, picture_info
from .job_folder import MadeImage
from .wishes import NO_WISHES, Wish, Wishes
from .wishes_check import check_wishes

TASKS = (UNCONDITIONAL, CLASS_CONDITIONAL, TEXT_CONDITIONAL)
_COMMAND = "ldm generate"


@dataclass(frozen=True)
class Source:
    """Which model: the arguments of `ldm_backend.load` of these names. On a cluster each node reads it itself."""

    path: str
    weights: str
    config: str | None


class ImageMaker:
    """Makes the images of one job.

    A call samples under a lock and encodes outside of it: with two calls at a time, the network does not wait for PNGs.

    Args:
        source: The model.
        settings: Of the job.
        job: Its digest, written into each image.
    """

    def __init__(self, source: Source, settings: Settings, job: str) -> None:
        self._source = source
        self._settings = settings
        self._job = job
        self._stopped = False
        self._sampling = threading.Lock()

    def start(self) -> None:
        """Load the model.

        Raises:
            JobError: The checkpoint, torch or this package is another one here than the job says.
            LDMError: What `ldm_backend.load` raises.
        """
        settings = self._settings
        self._model = load_as_said(self._source, settings, TASKS, _COMMAND, settings.compiled)
        self._grid = _grid_in(settings, self._model)
        self._machine = machine_name(settings.device)

    def __call__(self, unit: Unit) -> list[MadeImage]:
        """The missing images of one batch.

        Raises:
            LDMError: What `ldm_backend.generate` raises.
        """
        s = self._settings
        with self._sampling:
            torch.set_num_threads(s.threads)  # for this thread: some libraries count for each
            images = ldm_backend.generate(
                self._model, unit.seeds, s.steps, s.eta, s.sampler, self._grid, callback=self._check_stopped,
                height=s.height, width=s.width, **self._wanted(unit.wishes),
            )  # fmt: skip
        made = []
        for seed, wish, pixels in zip(unit.seeds, unit.wishes, images, strict=True):
            if seed in unit.wanted:
                info = picture_info(s, self._job, seed, self._machine, wish)
                made.append(MadeImage(seed, encode_png(pixels, info), pixels_sha256(pixels), self._machine))
        return made

    def _wanted(self, wishes: Sequence[Wish]) -> dict[str, Any]:
        """Arguments of `ldm_backend.generate`; what it would say of the texts was said when the run began."""
        first = wishes[0]
        if first.prompt is None:
            return {"classes": [wish.number for wish in wishes], "cfg": first.cfg} if first.of_class else {}
        prompts = [wish.prompt or "" for wish in wishes]
        if self._model.tokeniser is not None:
            self._model.tokeniser.told.update([*prompts, first.negative])
        return {"prompts": prompts, "negative": first.negative, "cfg": first.cfg}

    def stop(self) -> None:
        """Break off what runs, after its current step."""
        self._stopped = True

    def _check_stopped(self, info: StepInfo) -> None:
        if self._stopped:
            raise GenerationError(f"stopped after step {info.index + 1} of {info.steps}; run the same command again")


def settings_of(
    source: Source,
    *,
    steps: int,
    eta: float,
    sampler: str,
    grid: str,
    batch: int | None,
    device: str,
    precision: str,
    first_stage_precision: str,
    compiled: bool,
    threads: int,
    height: int | None = None,
    width: int | None = None,
    wishes: Wishes = NO_WISHES,
    steps_file: Path | None = None,
) -> Settings:
    """The settings of a job, checked as far as is possible without a model.

    `batch` None takes the best one here, the grid "auto" becomes the sampler's own or that of the steps file. What the
    model will not see of the texts of `wishes` is said in the log.

    Raises:
        LDMError: A checkpoint or file of steps that cannot be read, or steps, eta, sampler, grid, size or precision
            that do not fit it.
    """
    unet_format = resolve(precision, device)
    checkpoint = read_source(source, TASKS, _COMMAND)
    check_wishes(checkpoint, wishes)
    timesteps = coefficients = None
    if steps_file is not None:
        timesteps, coefficients = _fitted(checkpoint, steps_file, steps, eta, sampler, grid)
        grid = FITTED
    elif grid == FITTED:
        raise JobError("the run in this folder takes fitted steps; give the same --steps-file to go on")
    else:
        grid = checked_grid(checkpoint, steps, eta, sampler, grid)
    size = latent_size(checkpoint.config, height, width)
    return Settings(
        checkpoint=checkpoint_hash(checkpoint),
        steps=steps,
        eta=eta,
        sampler=sampler,
        grid=grid,
        batch=batch or best_batch(checkpoint, torch.device(device), FORMATS[unet_format].itemsize, size),
        device=device,
        precision=unet_format,
        first_stage_precision=first_stage_precision,
        compiled=compiled,
        threads=threads,
        height=height,
        width=width,
        timesteps=timesteps,
        coefficients=coefficients,
        **versions(),
    )


def _fitted(checkpoint: Checkpoint, file: Path, steps: int, eta: float, sampler: str, grid: str) -> tuple[str, str]:
    """Timesteps and coefficients as in `Settings`, if the file is for this checkpoint and such a run."""
    if grid != AUTO:
        raise JobError(f"--grid {printable(grid)} and --steps-file are two grids; leave one of them out")
    fitted = read_fitted_steps(file)
    try:
        adds_noise(sampler, eta)
        pairs_of_run(Schedule(checkpoint.config.schedule), steps, fitted, sampler, eta)
        fitted.check_model(identity_of_unet(FileMark.of(checkpoint.unet_file), checkpoint.weights, checkpoint.config))
    except LDMError as error:
        raise JobError(f"{file}: {error}") from error
    return _joined(fitted.timesteps), ";".join(map(_joined, fitted.coefficients))


def _joined(numbers: Iterable[float]) -> str:
    return ",".join(map(repr, numbers))


def _numbers(text: str) -> tuple[float, ...]:
    return tuple(map(float, text.split(",")))


def _grid_in(settings: Settings, model: ldm_backend.LatentDiffusion) -> str | FittedSteps:
    """The grid of a job in a worker, whose model is the one that the job names."""
    if settings.timesteps is None or settings.coefficients is None:
        return settings.grid
    rows = tuple(map(_numbers, settings.coefficients.split(";")))
    return FittedSteps(model.identity, settings.sampler, _numbers(settings.timesteps), rows)


def versions() -> dict[str, str]:
    """Of what computes pixels here."""
    return {"torch": torch.__version__, "ldm": version("comfyui-ldm")}


def machine_name(device: str) -> str:
    """The card's name for "cuda", else the instructions that torch found the processor to have."""
    return torch.cuda.get_device_name() if device == "cuda" else torch.backends.cpu.get_cpu_capability()


def checkpoint_hash(checkpoint: Checkpoint) -> str:
    """Identifies what `load` would build: the weight files, which weights of them, configuration and vocabulary."""
    ends = (checkpoint.unet_file, checkpoint.first_stage_file, checkpoint.conditioner_file)
    files = [sha256_of(file) for end in ends if end is not None for file in weight_files(end)]
    words = checkpoint.vocabulary
    named = [] if words is None else [hashlib.sha256(words.to_text().encode()).hexdigest()]
    text = json.dumps([files, checkpoint.weights, config_to_json(checkpoint.config), *named], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def read_source(source: Source, tasks: Sequence[str], command: str) -> Checkpoint:
    """A checkpoint with its configuration, and no weights yet.

    Args:
        source: Which.
        tasks: One of which the model must be for.
        command: For messages.

    Raises:
        LDMError: It cannot be read, or is for another task.
    """
    checkpoint = read_checkpoint(local_path(source.path), source.weights, source.config)
    if checkpoint.config.task not in tasks:
        check_task(checkpoint.config.task, tasks[0], command)
    return checkpoint


def checked_grid(checkpoint: Checkpoint, steps: int, eta: float, sampler: str, grid: str) -> str:
    """The grid of a run, "auto" as the sampler's own, where all of these go together.

    Args:
        checkpoint: Whose schedule it is.
        steps: Of the run, as all that follow.
        eta: Likewise.
        sampler: Likewise.
        grid: Likewise.

    Raises:
        LDMError: They do not fit each other or the schedule.
    """
    adds_noise(sampler, eta)
    schedule = Schedule(checkpoint.config.schedule)
    grid = grid_of(schedule, grid, sampler)
    schedule.timesteps(steps, grid)
    return grid


def load_as_said(
    source: Source, settings: Computation, tasks: Sequence[str], command: str, compiled: bool = False
) -> ldm_backend.LatentDiffusion:
    """The model of a job in a worker, for this thread's number of threads.

    Args:
        source: Which.
        settings: Of the job.
        tasks: As for `read_source`.
        command: Likewise.
        compiled: As for `ldm_backend.load`.

    Raises:
        JobError: The checkpoint, torch or this package is another one here than the job says.
        LDMError: What `ldm_backend.load` raises.
    """
    here = {"checkpoint": checkpoint_hash(read_source(source, tasks, command)), **versions()}
    for name, value in here.items():
        if value != getattr(settings, name):
            raise JobError(
                f"{name} is {value} for the worker that reads {source.path}, but {getattr(settings, name)} in the "
                "job; give all nodes the same files and packages"
            )
    torch.set_num_threads(settings.threads)
    return ldm_backend.load(
        source.path,
        settings.device,
        weights=source.weights,
        config=source.config,
        precision=settings.precision,
        first_stage_precision=settings.first_stage_precision,
        compiled=compiled,
    )
