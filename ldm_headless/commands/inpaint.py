"""`ldm inpaint`: masked parts of pictures made anew, by a model that was trained for it."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from . import options
from .options import AUTO, FirstStagePrecision, Precision, Weights
from .picture_runs import run_pictures

STEPS, SAMPLER = 20, "dpmpp_2m"  # those of `ldm_backend.inpaint`


class MaskReduction(StrEnum):
    """How a mask becomes as small as a latent, as in `ldm_backend.conditioning.masked_image`."""

    ANY = "any"
    NEAREST = "nearest"


def inpaint(
    image: Annotated[Path, typer.Argument(metavar="IMAGE|FOLDER", help="PNG, JPEG or WebP.")],
    mask: Annotated[
        Path, typer.Argument(metavar="MASK|FOLDER", help="White is made anew. Of a folder, those of the same names.")
    ],
    model: options.ModelOption,
    out: options.OutOption,
    seed: options.SeedOption = 0,
    steps: options.StepsOption = STEPS,
    eta: options.EtaOption = 0.0,
    sampler: options.SamplerOption = SAMPLER,
    grid: options.GridOption = AUTO,
    mask_reduction: Annotated[
        MaskReduction, typer.Option(help="any: thin strokes count; nearest: as the original.")
    ] = MaskReduction.ANY,
    tile: Annotated[
        int | None, typer.Option(min=1, help="Side in latent cells of 4 pixels. Default: the whole, if it fits.")
    ] = None,
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
    """Make masked parts of pictures anew, as PNG under their names. The same command again makes what is missing.

    Every other pixel stays as it is. Both are turned as EXIF says; grey pictures become RGB. Refused: masks in colour
    or of another size; transparent pixels, 16 bits, CMYK, moving pictures. What cannot be used is named, and the others
    go on.
    """
    from ..tasks.inputs import masked_pictures_of

    run_pictures(
        "ldm inpaint",
        masked_pictures_of(image, mask, out),
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
        mask_reduction=mask_reduction.value,
        tile=tile,
        precision=precision.value,
        first_stage_precision=first_stage_precision.value,
        threads=threads,
    )
