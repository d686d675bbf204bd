"""The layers of torch.nn without their random initialisation, for networks whose weights come from a file.

A namespace for the `operations` of the networks. On the meta device initialising takes no memory, but makes torch
import its Python kernels for that device, which takes most of a second. Imports only torch.
"""

from __future__ import annotations

from torch import nn


class Conv2d(nn.Conv2d):
    """Convolution."""

    def reset_parameters(self) -> None:
        """Leave the weights as they are."""


class Linear(nn.Linear):
    """Linear layer."""

    def reset_parameters(self) -> None:
        """Leave the weights as they are."""


class GroupNorm(nn.GroupNorm):
    """Group normalisation."""

    def reset_parameters(self) -> None:
        """Leave the weights as they are."""


class LayerNorm(nn.LayerNorm):
    """Normalisation of each token."""

    def reset_parameters(self) -> None:
        """Leave the weights as they are."""


class Embedding(nn.Embedding):
    """Table of vectors."""

    def reset_parameters(self) -> None:
        """Leave the weights as they are."""
