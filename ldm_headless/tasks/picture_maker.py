"""The worker of `ldm upscale`, `ldm inpaint` and `ldm restore`: a model that makes pictures. Imports ldm_backend."""

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

import ldm_backend
from ldm_backend.config.conditioning import INPAINTING, SUPER_RESOLUTION, UNCONDITIONAL
from ldm_backend.errors import InputError, LDMError, SamplingError
from ldm_backend.guidance.restoration import COLOURISE, check_settings
from ldm_backend.networks.precision import resolve
from ldm_backend.networks.tiles import check_tile
from ldm_backend.sampling.samplers import StepInfo, eta_of

from ..errors import GenerationError, JobError
from ..files.pictures import read_mask, read_picture
from ..files.png import MAX_PIXELS, encode_png, pixels_sha256
from ..generation.image_maker import (
    Source,
    checked_grid,
    checkpoint_hash,
    load_as_said,
    machine_name,
    read_source,
    versions,
)
from .job import FailedPicture, MadePicture, Restoration, Settings, Unit, sha256_of_all

UPSCALE, INPAINT, RESTORE = "ldm upscale", "ldm inpaint", "ldm restore"
_TASKS = {UPSCALE: SUPER_RESOLUTION, INPAINT: INPAINTING, RESTORE: UNCONDITIONAL}

OnStep = Callable[[str, StepInfo], None]


class PictureMaker:
    """Makes the pictures of one job, each alone.

    A call samples under a lock, and reads and encodes outside of it.

    Args:
        source: The model.
        settings: Of the job.
        on_step: Told of each step of a picture, by its name.
    """

    def __init__(self, source: Source, settings: Settings, on_step: OnStep | None = None) -> None:
        self._source = source
        self._settings = settings
        self._on_step = on_step
        self._stopped = False
        self._sampling = threading.Lock()

    def start(self) -> None:
        """Load the model.

        Raises:
            JobError: The checkpoint, torch or this package is another one here than the job says.
            LDMError: What `ldm_backend.load` raises.
        """
        settings = self._settings
        self._model = load_as_said(self._source, settings, (_TASKS[settings.command],), settings.command)
        self._machine = machine_name(settings.device)

    def __call__(self, unit: Unit) -> MadePicture | FailedPicture:
        """One picture, or why it cannot be made where others can.

        Raises:
            LDMError: What stops all of them.
        """
        try:
            arrays = self._read(unit)
            with self._sampling:
                torch.set_num_threads(self._settings.threads)  # for this thread: some libraries count for each
                pixels = self._make(unit, arrays)
        except JobError as error:
            return failed(unit.name, error)
        except (InputError, SamplingError) as error:  # which do not say of what; the settings are checked
            return failed(unit.name, error, f"{unit.inputs[0]}: ")
        inputs = sha256_of_all(unit.data)
        info = {"seed": unit.seed, "inputs": list(unit.inputs), **self._settings.marks(unit.name, inputs)}
        png = encode_png(pixels, info | {"machine": self._machine} | self._settings.to_json())
        return MadePicture(unit.name, inputs, png, pixels_sha256(pixels), self._machine)

    def stop(self) -> None:
        """Break off what runs, after its current step."""
        self._stopped = True

    def _read(self, unit: Unit) -> list[np.ndarray]:
        picture = read_picture(unit.data[0], unit.inputs[0])
        height, width = picture.shape[:2]
        scale = self._scale()
        if height * width * scale**2 > MAX_PIXELS:
            raise JobError(
                f"{unit.inputs[0]} is {width}x{height}; {scale} times as large it would have "
                f"{height * width * scale**2:,} pixels, and at most {MAX_PIXELS:,} are written: make it smaller"
            )
        if len(unit.data) == 1:
            return [picture]
        mask = read_mask(unit.data[1], f"the mask {unit.inputs[1]}")
        if mask.shape != (height, width):
            raise JobError(
                f"{unit.inputs[0]} is {width}x{height} and its mask {mask.shape[1]}x{mask.shape[0]}; crop or resize "
                "them in the same way"
            )
        return [picture, mask]

    def _scale(self) -> int:
        """How many times as large as its picture a result is."""
        if self._settings.command == UPSCALE:
            return self._model.first_stage.downscale
        restoration = self._settings.restoration
        return (restoration and restoration.factor) or 1

    def _make(self, unit: Unit, arrays: list[np.ndarray]) -> np.ndarray:
        s = self._settings

        def after_step(info: StepInfo) -> None:
            if self._stopped:
                raise GenerationError(f"stopped after step {info.index + 1} of {info.steps}; repeat the command")
            if self._on_step:
                self._on_step(unit.name, info)

        run: dict[str, Any] = {
            "seeds": [unit.seed], "steps": s.steps, "eta": s.eta, "sampler": s.sampler, "grid": s.grid,
            "callback": after_step,
        }  # fmt: skip
        batch = [each[None] for each in arrays]
        if s.restoration is not None:
            return _restored(self._model, s.restoration, batch, run)
        run["tile"] = s.tile
        if s.command == UPSCALE:
            colours = bool(s.keep_colours)
            return ldm_backend.upscale(self._model, batch[0], keep_colours=colours, **run)[0]
        return ldm_backend.inpaint(self._model, batch[0], batch[1], mask_reduction=str(s.mask_reduction), **run)[0]


def _restored(
    model: ldm_backend.LatentDiffusion, settings: Restoration, batch: list[np.ndarray], run: dict[str, Any]
) -> np.ndarray:
    picture = batch[0]
    if settings.task == COLOURISE and (picture == picture[..., :1]).all():
        picture = picture[..., :1]  # the levels themselves, not the luma of three equal ones, which rounds
    masks = batch[1] if len(batch) > 1 else None
    return ldm_backend.restore(model, picture, masks=masks, **settings.given(), **run)[0]


def failed(name: str, error: LDMError, before: str = "") -> FailedPicture:
    """What an error makes of a picture; its message begins with `before`."""
    return FailedPicture(name, f"{before}{error}", getattr(error, "exit_code", 2))


def settings_of(
    source: Source,
    command: str,
    *,
    seed: int,
    steps: int,
    eta: float | None,
    sampler: str,
    grid: str,
    device: str,
    precision: str,
    first_stage_precision: str,
    threads: int,
    tile: int | None = None,
    mask_reduction: str | None = None,
    keep_colours: bool | None = None,
    restoration: Restoration | None = None,
) -> Settings:
    """The settings of a job, checked as far as is possible without weights.

    The grid "auto" becomes the sampler's own, and an eta of None that of `ldm_backend.upscale` and `restore`.

    Raises:
        LDMError: A checkpoint that cannot be read or is for another task, or steps, eta, sampler, grid, tile,
            precision or settings of a restoration that do not fit it.
    """
    if restoration is not None:
        check_settings(**restoration.given())
    eta = eta_of(sampler, eta)
    unet_format = resolve(precision, device)
    checkpoint = read_source(source, (_TASKS[command],), command)
    grid = checked_grid(checkpoint, steps, eta, sampler, grid)
    if tile is not None:
        check_tile(tile, checkpoint.config.unet.size_multiple)
    return Settings(
        command=command,
        checkpoint=checkpoint_hash(checkpoint),
        base_seed=seed,
        steps=steps,
        eta=eta,
        sampler=sampler,
        grid=grid,
        tile=tile,
        mask_reduction=mask_reduction,
        keep_colours=keep_colours,
        restoration=restoration,
        device=device,
        precision=unet_format,
        first_stage_precision=first_stage_precision,
        threads=threads,
        **versions(),
    )
