"""Comparing two sets of images: Frechet distance of the sets, and pixels of the pairs. Imports the siblings, numpy."""

import math
import statistics
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from ..errors import JobError
from .features import Features
from .frechet import Moments, frechet_distance
from .image_sets import ImageSet, Key

_CHUNK = 16  # images in memory at a time
_MANY = 10_000


@dataclass(frozen=True)
class Distance:
    """A Frechet distance.

    Attributes:
        name: "FID" or "Frechet distance on ... features"; values of different names cannot be compared.
        value: Squared distance.
        counts: Images of each set.
        warning: About the bias of small sets; empty where they are large.
    """

    name: str
    value: float
    counts: tuple[int, int]
    warning: str


@dataclass(frozen=True)
class Pairs:
    """Images of the same seed side by side.

    Attributes:
        count: Pairs.
        identical: Of them, pairs without any difference.
        psnr_median, psnr_min: In dB over all pairs; infinite where pairs are identical.
        max_difference: The largest difference of a level, 0..255.
        worst: The key of the pair that has it; None where all are identical.
        only_in_a, only_in_b: Keys without a partner.
    """

    count: int
    identical: int
    psnr_median: float
    psnr_min: float
    max_difference: int
    worst: Key | None
    only_in_a: tuple[Key, ...]
    only_in_b: tuple[Key, ...]


def set_distance(a: ImageSet, b: ImageSet, features: Features) -> Distance:
    """The Frechet distance between the features of two sets.

    Raises:
        JobError: A set has no more images than features, so that its covariance would be singular; images that cannot
            be read or have several sizes.
    """
    for images in (a, b):
        if len(images.keys) <= features.dimensions:
            raise JobError(
                f"{images.source} has {len(images.keys)} images; a Frechet distance on {features.dimensions} features "
                f"({features.name}) needs more than {features.dimensions}: make more, or choose other --features"
            )
    moments = [_moments(images, features) for images in (a, b)]
    value = frechet_distance(*(part for one in moments for part in (one.mean, one.covariance())))
    name = "FID" if features.is_fid else f"Frechet distance on {features.name} features"
    return Distance(name, value, (len(a.keys), len(b.keys)), _bias_warning(a, b, features))


def compare_pairs(a: ImageSet, b: ImageSet) -> Pairs | None:
    """Compare the images that both sets have; None when there are none.

    Raises:
        JobError: Images of a pair differ in size.
    """
    others = set(b.keys)
    common = [key for key in a.keys if key in others]
    if not common:
        return None
    ratios, worst, largest, identical = [], None, 0, 0
    for key in common:
        left, right = a.read(key), b.read(key)
        if left.shape != right.shape:
            raise JobError(
                f"image {key} is {_size(left)} in {a.source} and {_size(right)} in {b.source}; give sets of one size"
            )
        difference = np.abs(left.astype(np.int16) - right)
        if difference.max() > largest:
            worst, largest = key, int(difference.max())
        identical += not difference.any()
        ratios.append(psnr(difference))
    own = set(common)
    return Pairs(
        len(common),
        identical,
        statistics.median(ratios),
        min(ratios),
        largest,
        worst,
        tuple(key for key in a.keys if key not in own),
        tuple(key for key in b.keys if key not in own),
    )


def psnr(difference: np.ndarray) -> float:
    """Peak signal to noise ratio in dB of differences of levels 0..255; infinite where there is none."""
    # By rows, which takes no memory; sums of whole numbers are exact.
    mean = sum(float(np.square(row, dtype=np.float64).sum()) for row in difference) / difference.size
    return 10.0 * math.log10(255.0**2 / mean) if mean else math.inf


def _moments(images: ImageSet, features: Features) -> Moments:
    moments = Moments(features.dimensions)
    for chunk in _chunks(images):
        vectors = features.extract(chunk)
        if not np.isfinite(vectors).all():
            raise JobError(
                f"{features.name}: a feature of an image of {images.source} is NaN or infinite; use other --features"
            )
        moments.update(vectors)
    return moments


def _chunks(images: ImageSet) -> Iterator[np.ndarray]:
    size = _size(images.read(images.keys[0]))
    for start in range(0, len(images.keys), _CHUNK):
        chunk = [images.read(key) for key in images.keys[start : start + _CHUNK]]
        for key, pixels in zip(images.keys[start:], chunk, strict=False):
            if _size(pixels) != size:
                raise JobError(f"{images.source}: image {key} is {_size(pixels)}; expected {size}, as the first one")
        yield np.stack(chunk)


def _bias_warning(a: ImageSet, b: ImageSet, features: Features) -> str:
    fewest = min(len(a.keys), len(b.keys))
    if fewest >= max(_MANY, 10 * features.dimensions):
        return ""
    return (
        f"{fewest} images are few for {features.dimensions} features: the distance comes out too large, and the more "
        "so the fewer there are. Compare it only with distances of the same numbers of images."
    )


def _size(pixels: np.ndarray) -> str:
    return f"{pixels.shape[1]}x{pixels.shape[0]}"
