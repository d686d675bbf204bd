"""`ldm generate`: images straight from a checkpoint, many of them. Torch and Ray are imported when needed."""

import time
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.progress import TextColumn, TimeElapsedColumn, TimeRemainingColumn

from ..errors import JobError
from ..generation.job import NPZ_NAME, Format, Job, png_name
from ..generation.wishes import parse_wishes
from ..pools.pool import Item, LocalPool, Pool, Result
from ..pools.ray_pool import Needs, RayPool, ray_cluster
from ..seed_ranges import parse_seeds
from ..terminal import console, result
from . import options
from .making import shown
from .options import AUTO, Device, FirstStagePrecision, Precision, Weights

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..generation.job import Computation, Unit
    from ..generation.job_folder import JobFolder, MadeImage
    from ..pools.pool import Worker

_MOST_IN_BATCH = 100_000
_IN_FLIGHT = 2  # one batch is sampled while another one is encoded


def generate(
    checkpoint: options.CheckpointArgument,
    seeds: Annotated[str, typer.Option(help="One image for each: 0-49999 or 3,7,100-199.")],
    out: options.OutOption = Path("generated"),
    format_: Annotated[Format, typer.Option("--format", help="PNG files, tar shards, or one npz.")] = Format.PNG,
    steps: options.StepsOption = 200,
    eta: options.EtaOption = 0.0,
    sampler: options.SamplerOption = "ddim",
    grid: options.GridOption = AUTO,
    steps_file: options.StepsFileOption = None,
    batch: Annotated[str, typer.Option(metavar="N|auto", help="Images sampled together; auto: as pays here.")] = "1",
    device: options.DeviceOption = None,
    precision: options.PrecisionOption = Precision.FP32,
    first_stage_precision: Annotated[
        FirstStagePrecision, typer.Option(help="Of the decoder; fp32 is exact.")
    ] = FirstStagePrecision.FP32,
    compiled: Annotated[
        bool, typer.Option("--compile", help="On CUDA and in bf16: faster after a first step.")
    ] = False,
    threads: options.ThreadsOption = 1,
    weights: options.WeightsOption = Weights.AUTO,
    config: Annotated[str | None, typer.Option(metavar="PRESET|YAML", help="For files without.")] = None,
    shard_size: Annotated[int, typer.Option(min=1, help="Images in each WebDataset shard.")] = 1000,
    ray: options.RayOption = None,
    workers: options.WorkersOption = None,
    height: Annotated[int | None, typer.Option(min=1, help="Pixels. Default: as in training.")] = None,
    width: Annotated[int | None, typer.Option(min=1, help="Pixels. Default: as in training.")] = None,
    prompt: Annotated[
        list[str] | None, typer.Option(help="Of a model of texts; one for all seeds, several take turns over them.")
    ] = None,
    prompts: Annotated[Path | None, typer.Option(metavar="FILE", help="A prompt on each line, instead.")] = None,
    negative: Annotated[str, typer.Option(help="What guidance leads away from, of all prompts.")] = "",
    class_: Annotated[
        list[str] | None,
        typer.Option(
            "--class",
            metavar="N|N-M|none",
            help="Of a model of classes, or a range; several take turns, as prompts do.",
        ),
    ] = None,
    cfg: Annotated[
        float, typer.Option(help="Guidance to prompt or class; 1 is none, others take twice the time.")
    ] = 1.0,
    verify: Annotated[
        bool, typer.Option("--verify", help="Compare all images that are there with the manifest.")
    ] = False,
) -> None:
    """Make the image of each seed. After an interruption the same command makes what is missing."""
    from ..files.png import MAX_PIXELS
    from ..generation.image_maker import ImageMaker, Source, settings_of
    from ..generation.job_folder import JobFolder

    numbers = tuple(parse_seeds(seeds))
    wishes = parse_wishes(prompt or (), prompts, class_ or (), negative, cfg, len(numbers))
    if (height or 1) * (width or 1) > MAX_PIXELS:
        raise JobError(
            f"--height {height} and --width {width} are more than the {MAX_PIXELS:,} pixels of an image here; "
            "give smaller ones"
        )
    with ExitStack() as stack:
        resources = stack.enter_context(ray_cluster(ray)) if ray is not None else None
        source = Source(checkpoint, weights.value, config)
        settings = settings_of(
            source,
            steps=steps,
            eta=eta,
            sampler=sampler,
            grid=_grid(grid, sampler, out) if steps_file is None else grid,
            steps_file=steps_file,
            batch=_batch(batch, out, resources),
            device=device_here(device, resources),
            precision=precision.value,
            first_stage_precision=first_stage_precision.value,
            compiled=compiled,
            threads=threads,
            height=height,
            width=width,
            wishes=wishes,
        )
        job = Job(settings, numbers, format_, shard_size, wishes)
        pool = pool_of(partial(ImageMaker, source, settings, job.digest), resources, workers, settings)
        with console.status("looking at what is there"):
            folder = stack.enter_context(JobFolder(out, job, verify))
        _run(folder, pool)
    result(out / NPZ_NAME if format_ is Format.NPZ else out)


def _batch(text: str, out: Path, resources: dict[str, float] | None) -> int | None:
    """How many images to sample together; None leaves it to the memory of this machine.

    A run that goes on keeps the number that it began with: batches are cut from the seeds at fixed places.

    Raises:
        JobError: No number, or `auto` where the workers are elsewhere.
    """
    from ..generation.job_folder import batch_of

    if text == AUTO:
        if resources is not None:
            raise JobError("--batch auto looks at the memory of this machine; with --ray give a number")
        return batch_of(out)
    if not text.isascii() or not text.isdigit() or not 1 <= int(text[:10]) <= _MOST_IN_BATCH:
        raise JobError(f"--batch is {text!r}; expected a number from 1 to {_MOST_IN_BATCH}, or {AUTO}")
    return int(text)


def _grid(grid: str, sampler: str, out: Path) -> str:
    """The grid as it was asked for; where that is `auto`, the one of the run that goes on in the folder.

    Runs that began when another grid was the default go on with theirs.
    """
    from ..generation.job_folder import settings_of_folder

    found = settings_of_folder(out) if grid == AUTO else {}
    begun = found.get("grid")
    return begun if isinstance(begun, str) and found.get("sampler") == sampler else grid


def device_here(asked: Device | None, resources: dict[str, float] | None = None) -> str:
    """Where to compute; what this machine has counts only without a cluster, whose `resources` count otherwise.

    Raises:
        JobError: CUDA was asked for, and there is none.
    """
    import torch

    has_gpu = torch.cuda.is_available() if resources is None else resources.get("GPU", 0) >= 1
    if asked is Device.CUDA and not has_gpu:
        raise JobError("--device cuda, but there is no CUDA device here; leave it out, or take --device cpu")
    return (asked or (Device.CUDA if has_gpu else Device.CPU)).value


def pool_of(
    factory: "Callable[[], Worker[Item, Result]]",
    resources: dict[str, float] | None,
    workers: int | None,
    settings: "Computation",
) -> "Pool[Item, Result]":
    """Workers here, or on the cluster that has these resources.

    Raises:
        JobError: A number of workers without a cluster.
    """
    if resources is None:
        if workers is not None:
            raise JobError("--workers is for --ray; take --ray local for several workers on this machine")
        return LocalPool(factory, _IN_FLIGHT)
    needs = Needs(cpus=settings.threads, gpus=1 if settings.device == Device.CUDA else 0)
    return RayPool(factory, workers or needs.places(resources), needs, _IN_FLIGHT)


def _run(folder: "JobFolder", pool: "Pool[Unit, list[MadeImage]]") -> None:
    """Make and store what is missing, and say how it goes."""
    total, before, start = len(folder.job.seeds), len(folder.done), time.monotonic()
    broken = [png_name(seed) for seed in folder.broken]
    columns = (TextColumn("{task.fields[rate]}"), TimeElapsedColumn(), TimeRemainingColumn())
    with shown(total, folder.done, broken, *columns, rate="") as (progress, task):
        units = list(folder.job.units(folder.done))
        for images in pool.map(units) if units else ():
            for image in images:
                folder.store(image)
            rate = (len(folder.done) - before) / (time.monotonic() - start)
            progress.update(task, completed=len(folder.done), rate=f"{rate:.2f} images/s")
    folder.finish()
