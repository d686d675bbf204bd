"""Whether a checkpoint holds the weights it should and this machine draws what it should, for whoever has one.

Nothing here depends on the layout: the same weights in a folder, an original checkpoint or a single file have the same
digests and draw the same pixels. Those are the ones that a test of diffusers published: `torch.manual_seed(0)`, five
DDIM steps with eta 0 on the grid of the Hugging Face configuration, quantised, decoded without a scale factor.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from .checkpoints.checkpoint import Checkpoint, as_float32, read_checkpoint
from .checkpoints.file_marks import FileMark
from .checkpoints.inspection import inspect_checkpoint
from .checkpoints.known_weights import KNOWN_FILES, KNOWN_TENSORS, Reference, reference_for
from .config.conditioning import UNCONDITIONAL, check_task
from .config.model import LDMConfig
from .errors import CheckpointError
from .hub.models import local_path
from .kernels.fast_conv import empty_caches
from .memory.chunks import Chunks
from .memory.mapped import release_pages
from .networks.decoding import decoded
from .networks.precision import resolve
from .pipeline import LatentDiffusion, load, sample_latents
from .views.images import to_unit

_SEED, _STEPS, _SIDE = 0, 5, 3


@dataclass(frozen=True)
class VerifiedFile:
    """A weight file; `known` says what it is, None if its hash is not one of `known_weights`."""

    path: Path
    size: int
    sha256: str
    known: str | None


@dataclass(frozen=True)
class Digest:
    """A hash of the tensors of one network.

    Attributes:
        network: "UNet" or "first stage".
        weights: "ema", "raw" or "only"; None for a first stage, of which there is one.
        sha256: See `tensor_digest`.
        known: Whose weights these are, None if they are not among `known_weights`.
    """

    network: str
    weights: str | None
    sha256: str
    known: str | None


@dataclass(frozen=True)
class Verification:
    """The answer of `verify_checkpoint`.

    Attributes:
        layout: As in `Checkpoint`.
        weights: That the pixels were drawn with, as in `Checkpoint`.
        has_ema: The file holds averaged weights beside the raw ones.
        config: Of the model.
        digests: Of the two networks, and of the UNet's other set of weights where the file holds one.
        device, precision: The pixels were drawn on and in.
        pixels: What was drawn, nine numbers from 0 to 1, row by row.
        reference: What they are compared with; None where nobody recorded any for this configuration.
        difference: The largest one; None without a reference.
    """

    path: Path
    layout: str
    weights: str
    has_ema: bool
    config: LDMConfig
    files: tuple[VerifiedFile, ...]
    digests: tuple[Digest, ...]
    device: str
    precision: str
    pixels: tuple[float, ...]
    reference: Reference | None
    difference: float | None

    @property
    def verdict(self) -> str:
        """One of "PASS", "FAIL" and "NO REFERENCE"."""
        if self.reference is None or self.difference is None:
            return "NO REFERENCE"
        return "PASS" if self.difference < self.reference.tolerance else "FAIL"  # NaN fails


def verify_checkpoint(
    path: str | Path,
    device: str | None = None,
    *,
    weights: str = "auto",
    config: LDMConfig | str | Path | None = None,
    precision: str = "fp32",
) -> Verification:
    """Hash the files and tensors of a checkpoint, draw the reference pixels with it, and compare all of them.

    Args:
        path: As for `load`; a name on the hub too.
        device: likewise.
        weights: likewise.
        config: Likewise; the name of a preset also says which model it is, see `reference_for`.
        precision: likewise.

    Raises:
        LDMError: What `load` and `generate` raise, also where a file is changed meanwhile; a model of another task.
    """
    target = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    unet_format, path = resolve(precision, target), local_path(path)
    checkpoint = read_checkpoint(path, weights, config)
    check_task(checkpoint.config.task, UNCONDITIONAL, "verify")
    marks = {FileMark.of(file) for file in checkpoint.sources}
    info = inspect_checkpoint(path, config)
    digests = _digests(checkpoint, config, info.has_ema)
    layout, chosen, found = checkpoint.layout, checkpoint.weights, checkpoint.config
    del checkpoint  # it may hold copies of tensors
    model = load(path, target, weights=weights, config=config, precision=precision)
    pixels = draw_pixels(model)
    if marks != set(model.files) or marks != {FileMark.of(mark.path) for mark in marks}:
        raise CheckpointError(
            f"{path}: its files were changed or replaced meanwhile: what was hashed is not what was drawn with. Verify "
            "it again."
        )
    reference = reference_for(found, config if isinstance(config, str) else None)
    return Verification(
        path=path,
        layout=layout,
        weights=chosen,
        has_ema=info.has_ema,
        config=found,
        files=tuple(VerifiedFile(*file, known=KNOWN_FILES.get(file[2])) for file in info.files),
        digests=digests,
        device=target.type,
        precision=unet_format,
        pixels=pixels,
        reference=reference,
        difference=largest_difference(pixels, reference.pixels) if reference else None,
    )


def tensor_digest(tensors: Mapping[str, Tensor], source: str | Path) -> str:
    """SHA-256 over tensors, in hexadecimal; equal for equal numbers under equal names, whatever the file.

    It is that of, for each name in order of its characters: the name, a space, the sides of the shape joined by "x", a
    line feed, and the numbers as little-endian float32 in the order of the rows.

    Args:
        tensors: Of one network under our names, on the CPU; one at a time is read from where it is mapped.
        source: Named in errors.

    Raises:
        CheckpointError: A tensor that holds no float numbers, or none that are finite.
    """
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {'x'.join(map(str, tensor.shape))}\n".encode())
        digest.update(np.ascontiguousarray(as_float32(tensor, name, source).numpy(), dtype="<f4").data)
        release_pages([tensor])
    return digest.hexdigest()


@torch.no_grad()
def draw_pixels(model: LatentDiffusion) -> tuple[float, ...]:
    """The last 3x3 pixels of the last channel, 0..1 and not rounded to levels, of the picture that references are of.

    Raises:
        LDMError: As `generate`.
    """
    z = sample_latents(model, [_SEED], _STEPS)
    ((_, image),) = decoded(model.first_stage, z, model.device, Chunks("Decoder"))
    empty_caches(model.first_stage)
    return tuple(to_unit(image)[0, -_SIDE:, -_SIDE:, -1].flatten().tolist())


def largest_difference(pixels: tuple[float, ...], expected: tuple[float, ...]) -> float:
    """The largest absolute one; NaN if any of the numbers is none."""
    return float(np.abs(np.subtract(pixels, expected)).max())


def _digests(checkpoint: Checkpoint, config: LDMConfig | str | Path | None, has_ema: bool) -> tuple[Digest, ...]:
    """Of both networks, and of the UNet's other weights: so an upload of unknown kind can be told to be EMA or raw."""
    stage = tensor_digest(checkpoint.first_stage, checkpoint.first_stage_file)
    found = [_unet_digest(checkpoint), Digest("first stage", None, stage, KNOWN_TENSORS.get(stage))]
    if has_ema:
        other = "raw" if checkpoint.weights == "ema" else "ema"
        found.append(_unet_digest(read_checkpoint(checkpoint.path, other, config)))
    return tuple(found)


def _unet_digest(checkpoint: Checkpoint) -> Digest:
    sha256 = tensor_digest(checkpoint.unet, checkpoint.unet_file)
    return Digest("UNet", checkpoint.weights, sha256, KNOWN_TENSORS.get(sha256))
