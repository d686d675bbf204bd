"""What a Frechet distance is computed on: functions from images to feature vectors. Imports torch when needed.

Nothing is downloaded. Only the distance on Inception features with the published weights is called FID.
"""

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError  # noqa: S403 - the name of an error
from typing import Any

import numpy as np

from ..errors import JobError
from ..files.bounded import damage_told

INCEPTION, PIXELS = "inception", "pixels"
INCEPTION_FILE = "weights-inception-2015-12-05-6726825d.pth"  # torch-fidelity's; the end is that of its SHA-256
_INCEPTION_SHA256 = "6726825d"
_CELLS = 8


@dataclass(frozen=True)
class Features:
    """A named map from images to vectors.

    Attributes:
        name: What the distance is called after.
        dimensions: Of a vector.
        extract: uint8 (N, H, W, 3) to (N, dimensions).
        is_fid: Whether the distance is what is published as FID.
    """

    name: str
    dimensions: int
    extract: Callable[[np.ndarray], np.ndarray]
    is_fid: bool = False


def find_features(choice: str | None) -> Features:
    """Features by name.

    Args:
        choice: "inception", "pixels", or the path of a checkpoint, whose encoder is then used. None takes Inception
            where torch-fidelity and its weights are at hand, else pixels.

    Raises:
        JobError: Inception is asked for and not at hand.
        LDMError: The checkpoint cannot be read.
    """
    if choice is None:
        choice = INCEPTION if not _missing_for_inception() else PIXELS
    if choice == PIXELS:
        return Features(f"{_CELLS}x{_CELLS} pixel means", 3 * _CELLS**2, pixel_means)
    return _inception() if choice == INCEPTION else _encoder(Path(choice))


def pixel_means(images: np.ndarray) -> np.ndarray:
    """The mean colours of 8x8 fields of each image, 192 numbers in 0..255; coarse, but the same everywhere.

    Raises:
        JobError: Sides that 8 does not divide.
    """
    count, height, width, channels = images.shape
    if height % _CELLS or width % _CELLS:
        raise JobError(f"the images are {width}x{height}; pixel features need sides that {_CELLS} divides")
    fields = images.reshape(count, _CELLS, height // _CELLS, _CELLS, width // _CELLS, channels)
    return fields.mean(axis=(2, 4), dtype=np.float64).reshape(count, -1)


def _encoder(path: Path) -> Features:
    """Activations before the encoder's last convolution, averaged over the image."""
    import torch

    from ldm_backend import load_first_stage
    from ldm_backend.views.images import as_channels, from_uint8

    first_stage = load_first_stage(path, scale_factor=1.0)  # multiplies what comes after these features
    kept: list[Any] = []
    first_stage.encoder.conv_out.register_forward_pre_hook(lambda module, inputs: kept.append(inputs[0]))

    def extract(images: np.ndarray) -> np.ndarray:
        kept.clear()
        with torch.no_grad():
            first_stage.encode(as_channels(from_uint8(images), first_stage.config.in_channels))
        return kept[0].double().mean(dim=(2, 3)).numpy()

    width = first_stage.config.block_out_channels[-1]
    return Features(f"first-stage encoder ({path.name}, {width} channels)", width, extract)


def _inception() -> Features:
    missing = _missing_for_inception()
    if missing:
        raise JobError(f"FID is not possible here: {missing}. Take --features pixels, or a checkpoint's encoder")
    import torch
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    path = inception_path()
    with damage_told(f"cannot read {path}"):
        try:
            # torch-fidelity itself would run what a pickle names.
            torch.load(path, weights_only=True, map_location="cpu")
        except UnpicklingError as error:  # whose text tells how to run it all the same
            raise JobError(f"cannot read {path}: it holds more than tensors, or is damaged; remove it") from error
        network = FeatureExtractorInceptionV3("inception-v3-compat", ["2048"], feature_extractor_weights_path=str(path))

    def extract(images: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            (features,) = network(torch.from_numpy(images).movedim(-1, 1).contiguous())
        return features.double().numpy()

    return Features("Inception-v3 (torch-fidelity)", 2048, extract, is_fid=True)


def _missing_for_inception() -> str:
    """Why there can be no FID; empty if nothing is missing."""
    if importlib.util.find_spec("torch_fidelity") is None:
        return "torch-fidelity is not installed (pip install 'comfyui-ldm[evaluate]')"
    from ldm_backend.checkpoints.inspection import sha256_of

    path = inception_path()
    if not path.is_file():
        return f"its weights are not at {path}; put {INCEPTION_FILE} of torch-fidelity's releases there"
    try:
        digest = sha256_of(path)
    except OSError as error:
        return f"{path} cannot be read ({error.strerror})"
    return "" if digest.startswith(_INCEPTION_SHA256) else f"{path} has the SHA-256 {digest}; remove it"


def inception_path() -> Path:
    """Where torch-fidelity keeps its weights: torch's folder of downloads, which TORCH_HOME moves."""
    import torch

    return Path(torch.hub.get_dir()) / "checkpoints" / INCEPTION_FILE
