"""Copies of weights in forms that suit graphics cards: fewer, larger products instead of many small ones.

A `Formed` layer has such a form, and takes it instead of its own weights where there is one. On the CPU there is none:
the forms are sums in another order, and the CPU has faster ways of its own (`fast_conv`).

Forms are made by whoever runs a whole network and belong to one run. What changes weights within a run is noticed by
their addresses and versions; an inference tensor has no version, so for those only the end of the run counts.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

# What weights are now: equal states mean that nothing was moved, replaced or (where it can be told) changed.
State = tuple[tuple[int, int, int], ...]


class Formed(nn.Module):
    """A module that can have a form.

    Attributes:
        form: What `make_form` made, which belongs to the run: copies and pickles do not have it.
    """

    form: tuple[Tensor, Tensor] | None = None

    def make_form(self) -> None:
        """Fill `form` from the weights as they are."""
        raise NotImplementedError

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "form"}


class WeightForms:
    """The forms of one network, made anew when its weights are not what they were."""

    def __init__(self) -> None:
        self._state: State | None = None
        self._made = 0  # times

    def ready(self, network: nn.Module, x: Tensor) -> int | None:
        """Have the forms made where they can be.

        Args:
            network: Whose layers have forms; no other object may make them.
            x: What it is about to be called with.

        Returns:
            A number that is another one whenever the forms were made anew, also from the same weights: what was made
            with earlier ones is void. None where the network must be called as it is: on the CPU, for training, while
            something compiles, or when a host streams, casts or patches the weights or watches the layers.
        """
        state = plain_state(network, x)
        if state != self._state:
            drop_forms(network)
            self._state = state
            if state is not None:
                self._made += 1
                _make_forms(network)
        return None if state is None else self._made

    def clear(self, network: nn.Module) -> None:
        """Free the forms; the network's layers take their own weights again."""
        drop_forms(network)
        self._state = None


@contextmanager
def in_forms(network: nn.Module, x: Tensor) -> Iterator[None]:
    """A block in which a network that is seldom called has its forms, where it can.

    Args:
        network: Called within the block.
        x: What it is called with.
    """
    forms = WeightForms()
    if forms.ready(network, x) is None:
        yield
        return
    try:
        yield
    finally:
        forms.clear(network)


def drop_forms(network: nn.Module) -> None:
    """Free what `make_form` made; the layers take their own weights again."""
    for layer in network.modules():
        layer.__dict__.pop("form", None)


@torch.no_grad()
def _make_forms(network: nn.Module) -> None:
    for layer in network.modules():
        if isinstance(layer, Formed):
            layer.make_form()


def plain_state(network: nn.Module, x: Tensor) -> State | None:
    """The state of all weights; None where they are not plain weights beside `x` on a card, see `WeightForms.ready`."""
    if x.device.type != "cuda" or torch.compiler.is_compiling():
        return None
    training = torch.is_grad_enabled()
    if training and x.requires_grad:
        return None
    state: list[tuple[int, int, int]] = []
    waiting = [network]
    while waiting:  # by hand: `modules()` and `parameters()` take a millisecond, which is an evaluation on a fast card
        layer: Any = waiting.pop()
        if not _is_plain(layer):
            return None
        for weight in layer._parameters.values():
            if weight is None:
                continue
            if weight.device != x.device or training and weight.requires_grad or _is_wrapped(weight):
                return None
            state.append((id(weight), weight.data_ptr(), 0 if weight.is_inference() else weight._version))
        waiting.extend(layer._modules.values())
    return tuple(state)


def _is_wrapped(weight: Tensor) -> bool:
    """Whether a weight is not what its shape and dtype say: quantised, for example."""
    return type(weight) is not nn.Parameter and is_traceable_wrapper_subclass(weight)


def _is_plain(layer: Any) -> bool:
    """Whether nobody casts or patches this layer's weights at each call, or is called with it."""
    own = layer.__dict__
    if own["_forward_hooks"] or own["_forward_pre_hooks"] or "forward" in own:  # replaced on this one object
        return False
    return not (_of_a_host(type(layer)) and (layer.comfy_cast_weights or layer.weight_function or layer.bias_function))


@cache
def _of_a_host(kind: type) -> bool:
    """Whether layers of this class may be ComfyUI's. Asked of the class: asking a module for what it lacks is slow."""
    return hasattr(kind, "comfy_cast_weights")
