"""Options that several commands have, in the same words, and their choices. Imports typer."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

AUTO = "auto"
_MOST_SEED = 2**64 - 1
_MOST_THREADS = 4096


class Weights(StrEnum):
    """Which of two sets of weights."""

    AUTO = "auto"
    EMA = "ema"
    RAW = "raw"


class Precision(StrEnum):
    """Number format of the UNet, as in `ldm_backend.networks.precision`."""

    FP32 = "fp32"
    AUTO = "auto"
    BF16 = "bf16"
    FP16 = "fp16"
    TF32 = "tf32"


class FirstStagePrecision(StrEnum):
    """Number format of encoder and decoder, as in `ldm_backend.networks.precision`."""

    FP32 = "fp32"
    BF16 = "bf16"


class Device(StrEnum):
    """Where images are computed."""

    CPU = "cpu"
    CUDA = "cuda"


# Of all commands that read a model
CheckpointArgument = Annotated[str, typer.Argument(metavar="CHECKPOINT", help="File, folder or name on the hub.")]
ConfigOption = Annotated[
    str | None, typer.Option(metavar="PRESET|YAML", help="For files without: a model's name, or CompVis' config.yaml.")
]
DeviceOption = Annotated[Device | None, typer.Option(help="Default: cuda where there is one.")]
WeightsOption = Annotated[Weights, typer.Option(help="auto: EMA where present.")]

# Of generate, upscale, inpaint and restore
OutOption = Annotated[Path, typer.Option(help="A new folder, or the one of a run to continue.")]
StepsOption = Annotated[int, typer.Option(min=1, help="Evaluations of the network.")]
EtaOption = Annotated[float, typer.Option(min=0.0, max=1.0, help="Noise in each step of ddim.")]
OpenEtaOption = Annotated[
    float | None, typer.Option(min=0.0, max=1.0, help="Noise in each step of ddim, of which it is 1 by default.")
]
SamplerOption = Annotated[str, typer.Option(help="As in LDM Sampler.")]
GridOption = Annotated[str, typer.Option(help="auto: what suits the sampler.")]
StepsFileOption = Annotated[
    Path | None,
    typer.Option("--steps-file", metavar="FILE", help="What ldm fit-steps wrote, for a grid."),
]
PrecisionOption = Annotated[Precision, typer.Option(help="fp32 is exact; auto: fp16 on CUDA.")]
ThreadsOption = Annotated[
    int, typer.Option(min=1, max=_MOST_THREADS, help="CPU threads of each worker; other numbers round otherwise.")
]
RayOption = Annotated[str | None, typer.Option(metavar="ADDRESS", help="A Ray cluster; `local` starts one here.")]
WorkersOption = Annotated[int | None, typer.Option(min=1, help="With --ray. Default: as many as fit.")]

# Of upscale, inpaint and restore
ModelOption = Annotated[str, typer.Option(metavar="CHECKPOINT", help="File, folder or name on the hub.")]
SeedOption = Annotated[
    int, typer.Option(min=0, max=_MOST_SEED, help="Each picture's own seed is made of it and of its name.")
]
FirstStageOption = Annotated[FirstStagePrecision, typer.Option(help="Of encoder and decoder; fp32 is exact.")]
VerifyOption = Annotated[bool, typer.Option("--verify", help="Compare all pictures that are there with the manifest.")]
