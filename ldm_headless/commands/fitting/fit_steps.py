"""`ldm fit-steps`: timesteps and coefficients of short runs, fitted to a checkpoint. Torch is imported when needed."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ...errors import ArgumentError
from ...terminal import console, result, say
from .. import options
from ..generate import device_here

if TYPE_CHECKING:
    from ldm_backend.fitting.steps import FitState


def fit_steps(
    checkpoint: options.CheckpointArgument,
    evaluations: Annotated[int, typer.Option(min=3, max=20, help="Of the network, in each of the runs.")] = 8,
    sampler: Annotated[
        str, typer.Option(help="The first coefficients: of unipc, dpmpp_2m, dpmpp_3m or ddim.")
    ] = "unipc",
    rounds: Annotated[int, typer.Option(min=1, max=10_000, help="Of the descent, eight pictures in each.")] = 120,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Default: steps-SAMPLER-EVALUATIONS.json beside the checkpoint.")
    ] = None,
    device: options.DeviceOption = None,
    threads: Annotated[int, typer.Option(min=1, max=4096, help="CPU threads; others round otherwise.")] = 1,
    weights: options.WeightsOption = options.Weights.AUTO,
    config: options.ConfigOption = None,
) -> None:
    """Fit timesteps and coefficients of short runs, for --steps-file of `ldm generate`; print the file's path.

    The file appears when the fit is done, so an interruption leaves what was there. On the CPU the same command gives
    the same file.
    """
    import torch

    import ldm_backend

    file = _out(checkpoint, out or Path(f"steps-{sampler}-{evaluations}.json"), is_given=out is not None)
    torch.set_num_threads(threads)
    with console.status("reading the checkpoint") as status:
        model = ldm_backend.load(checkpoint, device_here(device), weights=weights.value, config=config)
        fit = ldm_backend.fit_steps(
            model, evaluations, sampler, lambda state: status.update(_text(state), spinner="dots"), rounds
        )  # fmt: skip
    ldm_backend.write_fitted_steps(file, fit.steps)
    say(
        f"{evaluations} evaluations of {sampler}: {fit.before:.1f} dB from the limit of many steps on the best grid "
        f"without a fit, {fit.after:.1f} dB with the fitted steps (signal over error, more is closer)"
    )
    result(file)


def _out(checkpoint: str, out: Path, is_given: bool) -> Path:
    """Where the file goes, before hours go into it.

    Raises:
        ArgumentError: There is no place for it.
    """
    source = Path(checkpoint)
    if not is_given:
        if not source.exists():
            raise ArgumentError(f"no place beside {source}, which is no path here; give a file with --out")
        out = (source if source.is_dir() else source.parent) / out
    if out.is_dir() or not out.parent.is_dir():
        raise ArgumentError(f"--out {out} is a folder, or in none; give the name of a file in a folder that is there")
    return out


def _text(state: "FitState") -> str:
    if state.decibels is None:
        return f"making the limit of many steps: {state.evaluations} evaluations"
    return f"round {state.round}: {state.decibels:.2f} dB from the limit, {state.evaluations} evaluations"
