"""Classes to what the UNet attends to. The attribute's name is CompVis' checkpoint key.

Source: CompVis ClassEmbedder (ldm/modules/encoders/modules.py:21-34): one token for each image, looked up in a table.
"""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral
from typing import Any

import torch
from torch import Tensor, nn

from ...config.conditioning import ClassConfig
from ...errors import InputError, short_repr


class ClassEmbedder(nn.Module):
    """A table of one vector for each class.

    Args:
        config: How many, how wide, and whether the last is that of no class.
        operations: Namespace that provides the layers with weights.
        dtype, device: Of the weights; device "meta" builds without memory.
    """

    def __init__(
        self,
        config: ClassConfig,
        operations: Any = nn,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        self.config = config
        self.embedding = operations.Embedding(config.n_classes, config.embed_dim, dtype=dtype, device=device)

    def forward(self, classes: Sequence[int | None]) -> Tensor:
        """Look up.

        Args:
            classes: Numbers of classes, or None for no class, where the model knows that.

        Returns:
            (N, 1, D) in the format of the weights; equal classes are looked up once.

        Raises:
            InputError: A class that the model does not have.
        """
        rows = [self._row(one) for one in classes]
        different = sorted(set(rows))
        device = self.embedding.weight.device
        found = self.embedding(torch.tensor(different, dtype=torch.int64, device=device))
        places = torch.tensor([different.index(row) for row in rows], dtype=torch.int64, device=device)
        return found[places][:, None]

    def _row(self, one: int | None) -> int:
        none, most = self.config.last_is_none, self.config.pictured - 1
        if one is None and none:
            return self.config.n_classes - 1
        if not isinstance(one, Integral) or isinstance(one, bool) or not 0 <= one <= most:
            besides = ", or None for no class" if none else ""
            raise InputError(
                f"There is no class {short_repr(one)}; expected a whole number from 0 to {most}{besides}. The numbers "
                "are those of the data that the model was trained on."
            )
        return int(one)
