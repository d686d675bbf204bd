"""Labels to the channels that the UNet of a semantic synthesis sees. The attribute's name is CompVis' checkpoint key.

Source: CompVis SpatialRescaler (ldm/modules/encoders/modules.py:106-135): one channel for each label, halved n times by
bilinear interpolation, then a 1x1 convolution without bias. Both are linear, and the one acts on places and the other
on channels, so that their order is free: here the convolution comes first, where it only looks up the column of each
label. That takes a few numbers for each pixel in the place of one for each label.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding, interpolate

from ...config.conditioning import SegmentationConfig
from ...errors import InputError


class SpatialRescaler(nn.Module):
    """Maps of labels to the size of latents.

    Args:
        config: Numbers of labels, halvings and channels.
        operations: Namespace that provides the layers with weights.
        dtype, device: Of the weights; device "meta" builds without memory.
    """

    def __init__(
        self,
        config: SegmentationConfig,
        operations: Any = nn,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        self.config = config
        self.channel_mapper = operations.Conv2d(
            config.n_labels, config.out_channels, 1, bias=False, dtype=dtype, device=device
        )

    def forward(self, labels: Tensor) -> Tensor:
        """Look up and halve.

        Args:
            labels: (N, H, W) whole numbers from 0, below the number of labels; H and W multiples of what is halved.

        Returns:
            (N, C, H / 2**n_stages, W / 2**n_stages) in the format of the weights.

        Raises:
            InputError: Not such a map.
        """
        self._check(labels)
        columns = self.channel_mapper.weight.flatten(1).T  # (labels, C)
        h = embedding(labels.to(columns.device, torch.int64), columns).movedim(-1, 1)
        for _ in range(self.config.n_stages):
            h = interpolate(h, scale_factor=0.5, mode="bilinear", align_corners=False)
        return h

    def _check(self, labels: Tensor) -> None:
        unit, most = 2**self.config.n_stages, self.config.n_labels
        if labels.ndim != 3 or labels.is_floating_point() or any(side < 1 or side % unit for side in labels.shape[1:]):
            raise InputError(
                f"labels are {labels.dtype} of shape {tuple(labels.shape)}; expected whole numbers (N, H, W) with "
                f"sides that are multiples of {unit}."
            )
        low, high = (int(end) for end in labels.aminmax()) if len(labels) else (0, 0)
        if low < 0 or high >= most:
            raise InputError(
                f"labels reach from {low} to {high}; this model knows the labels 0 to {most - 1}. Give such pixels one "
                "of them."
            )
