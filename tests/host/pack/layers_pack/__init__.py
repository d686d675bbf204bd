"""A pack for tests only: makes the host give other layers from now on, as other versions of it do.

Loaded by the host, not by pytest. What it does to the host's modules no real pack may do.
"""

import comfy.ops
import torch
from torch.nn.parameter import UninitializedParameter

OPERATIONS = comfy.ops.disable_weight_init
KINDS = ("Conv2d", "Linear", "GroupNorm", "Embedding")
PLAIN = {kind: getattr(OPERATIONS, kind) for kind in KINDS}


def take_any_shape(layer, state_dict, prefix, metadata, strict, missing, unexpected, errors):
    """Loading as in a host with DynamicVRAM: what has the right name becomes the parameter."""
    for key, tensor in state_dict.items():
        name = key.removeprefix(prefix)
        if name in ("weight", "bias"):
            layer.__dict__.pop(name, None)
            layer._parameters[name] = torch.nn.Parameter(tensor, requires_grad=False)
        else:
            unexpected.append(key)


def until_loaded(kind, placeholder):
    """A layer whose parameters exist only after its weights were loaded."""

    def __init__(self, *args, **kwargs):  # noqa: N807
        PLAIN[kind].__init__(self, *args, **kwargs)
        # Versions with DynamicVRAM build a layer in full if it brings a loader of its own.
        if type(self)._load_from_state_dict is not lazy._load_from_state_dict:
            return
        for name in list(self._parameters):
            self._parameters.pop(name)
            setattr(self, name, placeholder())

    lazy = type(kind, (PLAIN[kind],), {"__init__": __init__, "_load_from_state_dict": take_any_shape})
    return lazy


def never_whole(kind, placeholder):
    """Likewise, whatever loader the layer has."""

    def __init__(self, *args, **kwargs):  # noqa: N807
        PLAIN[kind].__init__(self, *args, **kwargs)
        for name in list(self._parameters):
            self._parameters.pop(name)
            setattr(self, name, placeholder())

    return type(kind, (PLAIN[kind],), {"__init__": __init__, "_load_from_state_dict": take_any_shape})


class QuantisedLinear(torch.nn.Module):
    """A layer that is none of torch's: its weight comes with scales, in formats of its own."""

    def __init__(self, in_features, out_features, bias=True, device=None, dtype=None):
        super().__init__()
        self.bias = torch.nn.Parameter(torch.empty(out_features, device=device, dtype=dtype))


def cast(kind):
    return type(kind, (PLAIN[kind],), {"comfy_cast_weights": True})


LAYERS = {
    "plain": PLAIN,
    "dynamic vram": {kind: until_loaded(kind, lambda: None) for kind in ("Linear", "Embedding")},
    "none": {kind: never_whole(kind, lambda: None) for kind in KINDS},
    # Of all kinds, the host itself could not build an autoencoder.
    "uninitialised": {kind: never_whole(kind, UninitializedParameter) for kind in ("Linear", "Embedding")},
    "cast": {kind: cast(kind) for kind in KINDS},
    "quantised": {"Linear": QuantisedLinear},
}


class TestLayers:
    """Chooses the layers of the models that are loaded after it."""

    RETURN_TYPES = ()
    FUNCTION = "choose"
    CATEGORY = "tests"
    OUTPUT_NODE = True

    @classmethod
    def INPUT_TYPES(cls):  # noqa: N802 - the host's name
        return {"required": {"layers": (list(LAYERS),)}}

    def choose(self, layers):
        for kind, layer in (PLAIN | LAYERS[layers]).items():
            setattr(OPERATIONS, kind, layer)
        return {}


NODE_CLASS_MAPPINGS = {"TestLayers": TestLayers}
