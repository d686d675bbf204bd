"""The host's layers, with their parameters from the start.

While DynamicVRAM is on, the host's own `Linear` and `Embedding` hold no weights until a state dict is loaded, and then
take whatever shape it has. A checkpoint is held against the network before anything is loaded, so the layers that the
networks are built from get the parameters that torch's own would have. All that the host does with weights later
(cast, stream, patch them) stays the host's.
"""

from __future__ import annotations

from functools import cache
from types import SimpleNamespace
from typing import Any

from torch import nn

from ...ldm_backend.errors import ConfigError
from ...ldm_backend.networks import skip_init

_KINDS: tuple[type[nn.Module], ...] = (
    skip_init.Conv2d,
    skip_init.Linear,
    skip_init.GroupNorm,
    skip_init.LayerNorm,
    skip_init.Embedding,
)


def host_layers(operations: Any) -> SimpleNamespace:
    """A namespace for the `operations` of the networks.

    Args:
        operations: Of the host: `comfy.ops.disable_weight_init`, or what it picked for a model.

    Raises:
        ConfigError: The host gives layers that hold something else than plain weights.
    """
    kinds = {kind.__name__: kind for kind in _KINDS}
    return SimpleNamespace(**{name: _complete(getattr(operations, name), kind) for name, kind in kinds.items()})


@cache
def _complete(layer: type[nn.Module], plain: type[nn.Module]) -> type[nn.Module]:
    """A subclass of a host's layer that has the parameters of `plain`. One for each layer, so that classes compare."""
    torch_layer = plain.__base__
    if torch_layer is None or not issubclass(layer, torch_layer):
        raise ConfigError(
            f"This ComfyUI wants to build the model from {layer.__module__}.{layer.__qualname__}, which is no torch "
            f"{plain.__name__} with plain weights (quantised weights, for example). LDM models need plain ones: start "
            "ComfyUI without the option that asks for other layers (--fast and its like)."
        )

    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:  # noqa: N807 - it becomes the class's
        layer.__init__(self, *args, **kwargs)
        missing = [name for name in ("weight", "bias") if type(getattr(self, name, None)) is not nn.Parameter]
        # A bias that a layer is built without is among them too, as None.
        for name, parameter in plain(*args, **kwargs)._parameters.items() if missing else ():
            if name in missing:
                self.__dict__.pop(name, None)  # None until loading, as a plain attribute
                self._parameters.pop(name, None)
                self.register_parameter(name, parameter)

    # torch's way to load: the host's lazy one takes any shape. The host itself trusts layers that bring one of their
    # own to hold their parameters already.
    members = {
        "__init__": __init__,
        "__module__": __name__,
        "__doc__": layer.__doc__,
        "_load_from_state_dict": torch_layer._load_from_state_dict,
    }
    return type(layer.__name__, (layer,), members)
