"""The backend's UNet as a network of the host."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from comfy.patcher_extension import WrapperExecutor, WrappersMP, get_all_wrappers
from torch import Tensor

from ...ldm_backend.checkpoints.file_marks import FileMark
from ...ldm_backend.config.model import UNetConfig
from ...ldm_backend.memory.estimates import evaluation_bytes
from ...ldm_backend.networks.unet import UNet
from .layers import host_layers
from .memory import make_chunks
from .patches import check_control, check_patches


class HostUNet(UNet):
    """The backend's UNet with the signature that `BaseModel` calls; same keys, same arithmetic.

    Attributes:
        file: What the weights were read from, and may still be mapped from.
    """

    file: FileMark

    def __init__(self, config: UNetConfig, dtype: torch.dtype, operations: Any, device: torch.device) -> None:
        # Built without memory: the weights of the checkpoint become the parameters, so nothing is allocated twice.
        super().__init__(config, operations=host_layers(operations), dtype=dtype, device="meta")
        self._chunks = make_chunks("UNet", self)

    def forward(
        self,
        x: Tensor,
        timesteps: Tensor,
        context: Tensor | None = None,
        y: None = None,
        control: Any = None,
        transformer_options: dict[str, Any] | None = None,
        **_: Any,
    ) -> Tensor:
        """Predict eps, through the wrappers that other nodes have put around the network.

        Args:
            x: (N, C, H, W) noisy latents, joined with what the model sees beside them.
            timesteps: One for all, or (N,).
            context: (N, tokens, D) of a network that attends to one.
            y: Of no model here.
            control: Of a ControlNet, which no model here has.
            transformer_options: Wrappers; patches of blocks are refused.

        Raises:
            InputError: A latent of another family, more than fits into memory, or what this network does not look at.
            CheckpointError: The file of the weights was changed since it was loaded.
        """
        if torch.compiler.is_compiling():
            return super().forward(x, timesteps, context)
        options = {} if transformer_options is None else transformer_options
        check_patches(options)
        check_control(control)
        wrappers = get_all_wrappers(WrappersMP.DIFFUSION_MODEL, options)
        if not wrappers:
            return self._evaluated(x, timesteps, context)
        evaluate = WrapperExecutor.new_class_executor(self._evaluated, self, wrappers)
        return evaluate.execute(x, timesteps, context, y, control, options)

    def _evaluated(self, x: Tensor, timesteps: Tensor, context: Tensor | None = None, *_: Any, **__: Any) -> Tensor:
        self.check_input(x.shape)
        self.check_context(context, len(x))
        self.file.check()
        each = timesteps.reshape(-1).expand(len(x))
        return self._chunks.whole(
            lambda part: UNet.forward(self, x[part], each[part], None if context is None else context[part]),
            x.shape,
            x.device,
            lambda images: self.evaluation_bytes((images, *x.shape[1:])),
        )

    def evaluation_bytes(self, shape: Sequence[int]) -> int:
        """Memory of an evaluation of latents of this shape (N, C, H, W), beside the weights."""
        return evaluation_bytes(self.config, shape[0], math.prod(shape[2:]), 1, self.dtype.itemsize)
