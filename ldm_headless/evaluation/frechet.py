"""The Frechet distance between two Gaussians, and their moments from a stream of features. Imports numpy.

For features of an Inception network this is the FID of Heusel et al. (arXiv 1706.08500); the formula is that of
Dowson and Landau (1982).
"""

import numpy as np


class Moments:
    """Mean and covariance of features that come in pieces, in float64, without keeping them.

    Pieces are merged as Chan, Golub and LeVeque (1979) do: sums of squares would cancel where the mean is large beside
    the spread.

    Args:
        dimensions: Of one feature vector.

    Attributes:
        count: Vectors seen.
        mean: (D,).
    """

    def __init__(self, dimensions: int) -> None:
        self.count = 0
        self.mean = np.zeros(dimensions)
        self._scatter = np.zeros((dimensions, dimensions))  # sum of (x - mean)(x - mean)^T

    def update(self, features: np.ndarray) -> None:
        """Add (N, D) feature vectors."""
        features = np.asarray(features, dtype=np.float64)
        count = len(features)
        if not count:
            return
        mean = features.mean(axis=0)
        centred, shift = features - mean, mean - self.mean
        total = self.count + count
        self._scatter += centred.T @ centred + np.outer(shift, shift) * (self.count * count / total)
        self.mean += shift * (count / total)
        self.count = total

    def covariance(self) -> np.ndarray:
        """(D, D), unbiased, as numpy's `cov` and the published FID code compute it; needs two vectors."""
        return self._scatter / (self.count - 1)


def frechet_distance(mean_a: np.ndarray, cov_a: np.ndarray, mean_b: np.ndarray, cov_b: np.ndarray) -> float:
    """|mean_a - mean_b|^2 + tr(A + B - 2 (A^1/2 B A^1/2)^1/2), where A and B are the covariances.

    The product in the middle is symmetric, so its root comes from eigenvalues that are real and not negative but for
    rounding, which is cut off; the root of A B, which is not symmetric, can come out complex.

    Returns:
        The squared distance, not negative.
    """
    values, vectors = np.linalg.eigh(cov_a)
    root = (vectors * np.sqrt(np.clip(values, 0.0, None))) @ vectors.T
    middle = root @ cov_b @ root
    cross = np.sqrt(np.clip(np.linalg.eigvalsh((middle + middle.T) / 2.0), 0.0, None)).sum()
    difference = mean_a - mean_b
    return max(0.0, float(difference @ difference + np.trace(cov_a) + np.trace(cov_b) - 2.0 * cross))
