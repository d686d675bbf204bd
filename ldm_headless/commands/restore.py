"""`ldm restore`: pictures restored by a model that was trained for nothing but to draw such."""

from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import ArgumentError
from . import options
from .options import AUTO, FirstStagePrecision, Precision, Weights
from .picture_runs import run_pictures

if TYPE_CHECKING:
    from ..tasks.inputs import Item

STEPS, SAMPLER, FACTOR = 25, "ddim", 4  # those of `ldm_backend.restore`


class Task(StrEnum):
    """What is made good, as in `ldm_backend.guidance.restoration`."""

    UPSCALE = "upscale"
    INPAINT = "inpaint"
    COLOURISE = "colourise"
    DEBLUR = "deblur"


class Filter(StrEnum):
    """How a picture was made smaller, as in `ldm_backend.guidance.operators`."""

    BOX = "box"
    BICUBIC = "bicubic"


class Codec(StrEnum):
    """Between latents and pictures, as in `ldm_backend.guidance.guides`."""

    NETWORK = "network"
    LINEAR = "linear"


def restore(
    files: Annotated[
        list[Path],
        typer.Argument(metavar="FILES|FOLDER", help="PNG, JPEG and WebP; of a folder, those directly in it."),
    ],
    task: Annotated[Task, typer.Option(metavar="TASK", help="upscale, inpaint, colourise or deblur.")],
    model: options.ModelOption,
    out: options.OutOption,
    masks: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE|FOLDER", help="Of inpaint: white is made anew. Of a folder, those of the same names."
        ),
    ] = None,
    factor: Annotated[int | None, typer.Option(min=1, help=f"Of upscale, for each side. Default: {FACTOR}.")] = None,
    filter: Annotated[  # noqa: A002 - as the backend calls it
        Filter | None, typer.Option(help="Of upscale: how the pictures were made smaller. Default: box.")
    ] = None,
    blur: Annotated[
        float | None, typer.Option(metavar="SIGMA", help="Of deblur: of a Gaussian in pixels, 0.1 to 1000.")
    ] = None,
    noise: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="Standard deviation of the noise in pictures from 0 to 1.")
    ] = 0.0,
    seed: options.SeedOption = 0,
    steps: options.StepsOption = STEPS,
    eta: options.OpenEtaOption = None,
    sampler: options.SamplerOption = SAMPLER,
    grid: options.GridOption = AUTO,
    codec: Annotated[
        Codec, typer.Option(help="network: decoder and encoder in each step; linear: cheap, and much worse.")
    ] = Codec.NETWORK,
    device: options.DeviceOption = None,
    precision: options.PrecisionOption = Precision.FP32,
    first_stage_precision: options.FirstStageOption = FirstStagePrecision.FP32,
    threads: options.ThreadsOption = 1,
    weights: options.WeightsOption = Weights.AUTO,
    config: options.ConfigOption = None,
    ray: options.RayOption = None,
    workers: options.WorkersOption = None,
    verify: options.VerifyOption = False,
) -> None:
    """Enlarge, inpaint, colourise or sharpen pictures of what a model draws, as PNG under their names.

    The same command again makes what is missing. To colourise, of pictures in colour their grey levels are taken: old
    photographs may be scanned in colour. All are turned as EXIF says. Refused: transparent pixels, 16 bits, CMYK,
    moving pictures. What cannot be used is named, and the others go on.
    """
    from ..tasks.job import Restoration

    _check_options(task, {"masks": masks, "factor": factor, "filter": filter, "blur": blur})
    upscales = task is Task.UPSCALE
    restoration = Restoration(
        task=task.value,
        factor=(factor or FACTOR) if upscales else None,
        filter=(filter or Filter.BOX).value if upscales else None,
        blur=blur,
        noise=noise,
        codec=codec.value,
    )
    run_pictures(
        "ldm restore",
        _items(files, masks, out),
        out,
        model,
        weights=weights,
        config=config,
        device=device,
        ray=ray,
        workers=workers,
        verify=verify,
        seed=seed,
        steps=steps,
        eta=eta,
        sampler=sampler,
        grid=grid,
        restoration=restoration,
        precision=precision.value,
        first_stage_precision=first_stage_precision.value,
        threads=threads,
    )


_TASK_OF = {"masks": Task.INPAINT, "factor": Task.UPSCALE, "filter": Task.UPSCALE, "blur": Task.DEBLUR}
_NEEDED = {Task.INPAINT: "masks", Task.DEBLUR: "blur"}


def _check_options(task: Task, given: dict[str, object]) -> None:
    """Refuse options of another task, and a task without what it needs.

    Args:
        task: That is asked for.
        given: Options of single tasks, None where they are not given.

    Raises:
        ArgumentError: The message names task and option.
    """
    for name, value in given.items():
        if value is not None and _TASK_OF[name] is not task:
            raise ArgumentError(f"--{name} is for --task {_TASK_OF[name]}, and this one is {task}; leave it out")
    needed = _NEEDED.get(task)
    if needed is not None and given[needed] is None:
        raise ArgumentError(f"--task {task} needs --{needed}, which is not given; see ldm restore --help")


def _items(files: Sequence[Path], masks: Path | None, out: Path) -> "list[Item]":
    from ..tasks.inputs import masked_pictures_of, pictures_of

    if masks is None:
        return pictures_of(files, out)
    if len(files) > 1:
        raise ArgumentError(
            f"--task inpaint takes one picture and its mask, or two folders, and {len(files)} pictures are given; put "
            "them into a folder, and their masks into another"
        )
    return masked_pictures_of(files[0], masks, out)
