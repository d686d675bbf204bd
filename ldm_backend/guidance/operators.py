"""Linear maps of pictures that work along columns and rows: shrinking and blurring, their adjoints and inverses."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import interpolate

BOX, BICUBIC = "box", "bicubic"
FILTERS = (BOX, BICUBIC)

# Parts of a kernel's singular value decomposition below this share are rounding errors of float32.
_RANK = 1e-6


@dataclass(frozen=True)
class Separable:
    """A sum of products: x -> sum over the terms of rows @ x @ columns^T, for each channel.

    Attributes:
        terms: (rows, columns), float64 matrices that act along the height and along the width.
    """

    terms: tuple[tuple[Tensor, Tensor], ...]

    def __call__(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to (N, C, h, w), in the format and on the device of `x`."""
        return _joined([rows.to(x) @ x @ columns.to(x).T for rows, columns in self.terms])

    def adjoint(self, y: Tensor) -> Tensor:
        """(N, C, h, w) to (N, C, H, W)."""
        return _joined([rows.to(y).T @ y @ columns.to(y) for rows, columns in self.terms])

    def squares(self) -> float:
        """The sum of the squares of all numbers of its matrix, where it has a single term."""
        ((rows, columns),) = self.terms
        return float(rows.square().sum() * columns.square().sum())


def _joined(parts: list[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.stack(parts).sum(0)


def shrinking(height: int, width: int, factor: int, kind: str) -> tuple[Separable, Separable]:
    """A picture made smaller, and a right inverse of that.

    Of all right inverses this is the one that answers in smooth pictures: R = U (A U)^-1 with A the shrinking and U
    bicubic enlarging. A R is the identity, as with the pseudo-inverse A^T (A A^T)^-1; but that one answers, for the
    box, in flat blocks, whose edges no encoder knows from pictures: it renders them wrongly, and what comes back from
    the decoder agrees less with the measurement.

    Args:
        height: Of the large picture, a multiple of `factor`.
        width: likewise.
        factor: 1 or more.
        kind: One of FILTERS: "box" is the mean of factor x factor pixels, "bicubic" that of Pillow and of torch with
            antialias.
    """
    pairs = [(_shrunk(side, factor, kind), _enlarged(side, factor)) for side in (height, width)]
    smooth = [enlarged @ torch.linalg.inv(shrunk @ enlarged) for shrunk, enlarged in pairs]
    return Separable(((pairs[0][0], pairs[1][0]),)), Separable(((smooth[0], smooth[1]),))


def _shrunk(side: int, factor: int, kind: str) -> Tensor:
    """(side / factor, side) float64."""
    unit = torch.eye(side, dtype=torch.float64)
    if kind == BOX:
        return unit.view(side // factor, factor, side).mean(1)
    return _resized(unit, side // factor, antialias=True)


def _enlarged(side: int, factor: int) -> Tensor:
    """(side, side / factor) float64."""
    return _resized(torch.eye(side // factor, dtype=torch.float64), side, antialias=False)


def _resized(unit: Tensor, rows: int, antialias: bool) -> Tensor:
    size = (rows, unit.shape[1])
    return interpolate(unit[None, None], size, mode="bicubic", align_corners=False, antialias=antialias)[0, 0]


def blurring(height: int, width: int, kernel: Tensor) -> Separable:
    """Correlation with a kernel, the picture mirrored at its edges.

    Args:
        height: Of the picture, more than half of the kernel's.
        width: likewise.
        kernel: (h, w), odd sides.
    """
    left, values, right = torch.linalg.svd(kernel.double())
    rank = int((values > _RANK * values[0]).sum())
    return Separable(
        tuple(
            (_mirrored(height, left[:, index] * values[index]), _mirrored(width, right[index])) for index in range(rank)
        )
    )


def _mirrored(side: int, taps: Tensor) -> Tensor:
    """(side, side) float64: correlation along one side; the outermost pixel is not repeated."""
    matrix, reach = torch.zeros((side, side), dtype=torch.float64), len(taps) // 2
    rows = torch.arange(side)
    for offset, tap in zip(range(-reach, reach + 1), taps, strict=True):
        place = (rows + offset).abs()
        place = torch.minimum(place, 2 * (side - 1) - place)
        matrix.index_put_((rows, place), tap.expand(side), accumulate=True)
    return matrix


def gaussian(sigma: float) -> Tensor:
    """(k, k) float64 kernel that reaches to three sigma and adds up to one."""
    reach = max(1, round(3.0 * sigma))
    taps = torch.exp(-0.5 * (torch.arange(-reach, reach + 1, dtype=torch.float64) / sigma) ** 2)
    kernel = taps[:, None] * taps
    return kernel / kernel.sum()


def landweber(operator: Separable, size: tuple[int, int], steps: int) -> Callable[[Tensor], Tensor]:
    """An approximate inverse: gradient steps for |A x - y|^2, from zero.

    What a blur has taken away beyond recovery takes the most steps to come back, so few of them leave noise alone.

    Args:
        operator: A, of pictures to pictures of the same size.
        size: (height, width) of these.
        steps: 1 or more.
    """
    length = 1.0 / _squared_norm(operator, size)

    def inverse(y: Tensor) -> Tensor:
        x = torch.zeros_like(y)
        for _ in range(steps):
            x = x + length * operator.adjoint(y - operator(x))
        return x

    return inverse


def noise_gain(operator: Separable, inverse: Callable[[Tensor], Tensor], size: Sequence[int]) -> float:
    """tr(A+ A+^T) / tr(A+ A): how many times as large as in y the variance of noise is in what y determines of x.

    Both traces are those that one white picture shows (Hutchinson's estimate), always the same one.

    Args:
        operator: A, of pictures to pictures of the same size.
        inverse: A+.
        size: (height, width) of these.
    """
    white = torch.randn((1, 1, *size), dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    answer = inverse(white)
    return float(answer.square().sum() / (white * operator(answer)).sum())


def _squared_norm(operator: Separable, size: tuple[int, int]) -> float:
    """The largest eigenvalue of A^T A, by iteration from a picture that has a share of all frequencies."""
    x = torch.ones((1, 1, *size), dtype=torch.float64)
    x[..., 0, 0] = 2.0
    value = 1.0
    for _ in range(30):
        x = operator.adjoint(operator(x))
        value = float(x.norm())
        x = x / value
    return value
