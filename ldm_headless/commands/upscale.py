"""`ldm upscale`: large pictures of small ones, by a model for super-resolution."""

from pathlib import Path
from typing import Annotated

import typer

from . import options
from .options import AUTO, FirstStagePrecision, Precision, Weights
from .picture_runs import run_pictures

STEPS, SAMPLER = 15, "ddim"  # those of `ldm_backend.upscale`


def upscale(
    files: Annotated[
        list[Path],
        typer.Argument(metavar="FILES|FOLDER", help="PNG, JPEG and WebP; of a folder, those directly in it."),
    ],
    model: options.ModelOption,
    out: options.OutOption,
    seed: options.SeedOption = 0,
    steps: options.StepsOption = STEPS,
    eta: options.OpenEtaOption = None,
    sampler: options.SamplerOption = SAMPLER,
    grid: options.GridOption = AUTO,
    tile: Annotated[
        int | None, typer.Option(min=1, help="Side in pixels of the small picture. Default: the whole, if it fits.")
    ] = None,
    keep_colours: Annotated[
        bool, typer.Option("--keep-colours", help="Results get the low frequencies of the small pictures.")
    ] = False,
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
    """Enlarge pictures four times each side, as PNG under their names. The same command again makes what is missing.

    They are turned as EXIF says; grey ones become RGB. Refused: transparent pixels, 16 bits, CMYK, moving pictures.
    What cannot be read is named, and the others go on.
    """
    from ..tasks.inputs import pictures_of

    run_pictures(
        "ldm upscale",
        pictures_of(files, out),
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
        tile=tile,
        keep_colours=keep_colours,
        precision=precision.value,
        first_stage_precision=first_stage_precision.value,
        threads=threads,
    )
