"""What `ldm upscale`, `ldm inpaint` and `ldm restore` have in common: the run. Torch is imported when needed."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.progress import Progress, TaskID, TextColumn, TimeElapsedColumn

from ldm_backend.errors import LDMError, first_names

from ..errors import RunFailedError
from ..pools.ray_pool import ray_cluster
from ..terminal import console, note, one_line, result
from .generate import device_here, pool_of
from .making import shown
from .options import Device, Weights

if TYPE_CHECKING:
    from ldm_backend.sampling.samplers import StepInfo

    from ..pools.pool import Pool
    from ..tasks.inputs import Item
    from ..tasks.job import FailedPicture, MadePicture, Unit
    from ..tasks.picture_folder import PictureFolder


def run_pictures(
    command: str,
    items: "Sequence[Item]",
    out: Path,
    model: str,
    *,
    weights: Weights,
    config: str | None,
    device: Device | None,
    ray: str | None,
    workers: int | None,
    verify: bool,
    **settings: Any,
) -> None:
    """Make what is missing of these pictures.

    Args:
        command: "ldm upscale", "ldm inpaint" or "ldm restore".
        items: The pictures.
        out: Where to.
        model: Path or name of the checkpoint.
        weights: Which of its weights.
        config: For files without.
        device: Where to compute.
        ray: Address of a cluster.
        workers: On it.
        verify: Look at everything that is there.
        **settings: The others of `tasks.picture_maker.settings_of`.

    Raises:
        RunFailedError: Some pictures could not be made. The others are there.
        LDMError: None can be made.
    """
    from ..generation.image_maker import Source
    from ..tasks.picture_folder import PictureFolder
    from ..tasks.picture_maker import PictureMaker, settings_of

    with ExitStack() as stack:
        resources = stack.enter_context(ray_cluster(ray)) if ray is not None else None
        source = Source(model, weights.value, config)
        job = settings_of(source, command, device=device_here(device, resources), **settings)
        with console.status("looking at what is there"):
            folder = stack.enter_context(PictureFolder(out, job, items, verify))
        steps = _Steps()
        factory = partial(PictureMaker, source, job, **({} if resources is not None else {"on_step": steps.tell}))
        failures = _run(folder, pool_of(factory, resources, workers, job), steps)
    result(out)
    if failures:
        names = first_names([one.name for one in failures])
        raise RunFailedError(
            f"{len(failures)} of {len(items)} pictures could not be made ({names}); the others are in {out}. Correct "
            "what was said of each, then repeat the command",
            failures[0].exit_code,
        )


class _Steps:
    """Shows each step of what is sampled in this process."""

    def __init__(self) -> None:
        self._shown: tuple[Progress, TaskID] | None = None

    def show_in(self, progress: Progress, task: TaskID) -> None:
        self._shown = progress, task

    def tell(self, name: str, info: "StepInfo") -> None:
        if self._shown is not None:
            progress, task = self._shown
            progress.update(task, what=f"{one_line(name)}: step {info.index + 1} of {info.steps}")


def _run(
    folder: "PictureFolder", pool: "Pool[Unit, MadePicture | FailedPicture]", steps: _Steps
) -> "list[FailedPicture]":
    """Make and store what is missing, say how it goes, and return what could not be made."""
    failures: list[FailedPicture] = []
    columns = (TimeElapsedColumn(), TextColumn("{task.fields[what]}", markup=False))
    with shown(len(folder.items), folder.done, folder.broken, *columns, what="") as (progress, task):
        steps.show_in(progress, task)
        missing = folder.missing()
        for picture in pool.map(_units(folder, missing, failures)) if missing else ():
            _take(folder, picture, failures)
            progress.update(task, completed=len(folder.done))
    folder.finish()
    return failures


def _units(folder: "PictureFolder", items: "Sequence[Item]", failures: "list[FailedPicture]") -> "Iterator[Unit]":
    """What is to be made, each read when a worker is free; what cannot be read is a failure."""
    from ..files.pictures import read_bytes
    from ..tasks.inputs import seed_of
    from ..tasks.job import Unit
    from ..tasks.picture_maker import failed

    for item in items:
        try:
            data = tuple(read_bytes(file) for file in item.files)
        except LDMError as error:
            _take(folder, failed(item.name, error), failures)
            continue
        names = tuple(file.name for file in item.files)
        yield Unit(item.name, names, data, seed_of(folder.settings.base_seed, item.name))


def _take(folder: "PictureFolder", picture: "MadePicture | FailedPicture", failures: "list[FailedPicture]") -> None:
    from ..tasks.job import MadePicture

    if isinstance(picture, MadePicture):
        folder.store(picture)
    else:
        failures.append(picture)
        note(picture.message, "red")
