"""Hypothesis strategies of prompts that no editor writes: sound ones with changes, and some made up of all nodes."""

from __future__ import annotations

import copy
import math
from functools import cache
from typing import Any

from hypothesis import strategies as st
from prompts import cycle

from ldm_headless import find_host

Json = Any

# Names of inputs by which a node allocates. Values that a node allows are kept small: what the largest of them do is
# a question to the limits of memory, not to these tests.
ALLOCATING = {
    "width", "height", "batch_size", "frames", "variations", "amount", "columns", "feather", "tile", "length",
}  # fmt: skip
# The first evaluation would take minutes: a real choice of the user, and nothing to be refused.
LEFT_ALONE = {"compile"}
CORE_NODES = (
    "EmptyLatentImage", "KSampler", "VAEDecode", "VAEEncode", "SaveImage", "PreviewImage", "EmptyImage", "SolidMask",
    "LatentFromBatch", "RepeatLatentBatch", "SamplerCustomAdvanced", "RandomNoise", "FlipSigmas", "InvertMask",
    "MaskToImage", "ImageToMask", "SaveLatent",
)  # fmt: skip
HUGE = (2**31, 2**53 + 1, 2**63, 2**64, 10**30, 10_000_000, -1, -(2**31), -(2**64), 1e300, -1e300, 1e-320)
PATHS = (
    "../../escaped", "/escaped", "..\\..\\escaped", "C:\\escaped", "a/../../../escaped", "~/escaped", "a\0b", "a\nb",
    "..", ".", "/", "", "\ud800", "%year%/%width%", "%date:yyyy%", "x" * 300, "/".join("y" * 40), "con", "-rf", "$(id)",
    "a/" * 60, "é" * 200, "日本語", "\u202egnp", "portraits-128/unet", "portraits-128\0", "file:///etc/passwd",
)  # fmt: skip

texts = st.sampled_from(PATHS) | st.text(max_size=12)
numbers = st.sampled_from((*HUGE, math.nan, math.inf, -math.inf, 0, 0.5, -0.0)) | st.integers(-3, 40)
scalars = st.none() | st.booleans() | numbers | texts
# Shallow: the host's own reading gives up on deep ones.
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6) | st.just("samples"), inner),
    max_leaves=5,
)


class Nodes:
    """What `/object_info` tells of the nodes that take part."""

    def __init__(self, object_info: dict[str, Any]) -> None:
        self.info = {name: node for name, node in object_info.items() if name.startswith("LDM") or name in CORE_NODES}

    def inputs(self, class_type: Json) -> dict[str, Any]:
        """Name -> [type, settings] of each input; nothing for a class that does not take part."""
        node = self.info.get(class_type) if isinstance(class_type, str) else None
        return {} if node is None else node["input"].get("required", {}) | node["input"].get("optional", {})

    def wires(self, class_type: str) -> list[str]:
        """Names of the inputs that the editor draws as wires."""
        return [name for name, spec in self.inputs(class_type).items() if is_wire(spec)]


def is_wire(spec: list[Any]) -> bool:
    """Whether an input takes no value that a user could type."""
    return isinstance(spec[0], str) and spec[0] not in ("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO")


@st.composite
def allowed(draw: st.DrawFn, name: str, spec: list[Any]) -> Json:
    """A value that the host lets pass, small where it is a size."""
    kind, settings = spec[0], spec[1] if len(spec) > 1 else {}
    if name in LEFT_ALONE:
        return False
    if isinstance(kind, list) or kind == "COMBO":
        return draw(st.sampled_from(kind if isinstance(kind, list) else settings["options"]))
    if kind == "INT":
        low, high = settings.get("min", 0), settings.get("max", 100)
        if name in ("width", "height"):
            return draw(st.sampled_from([32, 64, 96, 65, 130]))
        if name not in ALLOCATING and draw(st.integers(0, 9)) == 0:
            return min(high, 1000)
        return draw(st.integers(low, min(high, low + 3)))
    if kind == "FLOAT":
        return draw(st.floats(settings.get("min", 0.0), settings.get("max", 1.0)) | st.just(math.nan))
    return draw(texts)


@st.composite
def links(draw: st.DrawFn, prompt: dict[str, Any]) -> Json:
    """A link to a node of the prompt or to none, with an output that it has or has not."""
    node = draw(st.sampled_from([*prompt, "999", "", "-1"]) | st.sampled_from([1, None, 1.0]))
    return [node, draw(st.sampled_from([0, 0, 0, 1, 2, -1, 99, 0.0, "0", None, math.nan]))]


@st.composite
def hostile_values(draw: st.DrawFn, prompt: dict[str, Any], name: str) -> Json:
    """Anything for an input: a value, a link, or one disguised as the other."""
    value = draw(values | links(prompt) | links(prompt))
    if name in LEFT_ALONE:
        return draw(st.sampled_from([False, None, 0, ""]))
    if name in ALLOCATING and isinstance(value, int | float | str):
        value = draw(st.sampled_from(HUGE[:9]) | st.sampled_from([math.nan, "many", "٣", True]))
    return {"__value__": value} if draw(st.integers(0, 5)) == 0 else value


@st.composite
def changed_prompts(draw: st.DrawFn, nodes: Nodes) -> dict[str, Any]:
    """A sound prompt with one to four changes."""
    cases = [case for case in cycle(draw(st.integers(0, 50))) if case.end == "done"]
    prompt: dict[str, Any] = copy.deepcopy(dict(draw(st.sampled_from(cases)).prompt))
    for _ in range(draw(st.integers(1, 4))):
        node = prompt[draw(st.sampled_from(list(prompt)))]
        known = [*nodes.inputs(node.get("class_type")), "unknown"]
        name = draw(st.sampled_from(known))
        change = draw(st.integers(0, 9))
        if change < 6:
            node["inputs"][name] = draw(hostile_values(prompt, name))
        elif change == 6:
            node["inputs"].pop(name, None)
        elif change == 7:
            node["class_type"] = draw(st.sampled_from([*nodes.info, "NoSuchNode", "", "日本語", "../x"]) | values)
        elif change == 8 and len(prompt) > 1:
            prompt.pop(draw(st.sampled_from(list(prompt))))
        else:
            spec = nodes.inputs(node.get("class_type")).get(name)
            if spec and not is_wire(spec):
                node["inputs"][name] = draw(allowed(name, spec))
    return prompt


@st.composite
def made_up_prompts(draw: st.DrawFn, nodes: Nodes) -> dict[str, Any]:
    """Nodes of any kind, wired to each other wherever the types allow it, with some junk."""
    prompt: dict[str, Any] = {"1": {"class_type": "LDMCheckpointLoader", "inputs": {"checkpoint": "portraits-128"}}}
    names = sorted(nodes.info)
    for index in range(2, draw(st.integers(3, 8))):
        class_type = draw(st.sampled_from(names))
        inputs = {}
        for name, spec in nodes.inputs(class_type).items():
            sources = [
                [node_id, output]
                for node_id, node in prompt.items()
                for output, kind in enumerate(nodes.info[node["class_type"]]["output"])
                if kind == spec[0]
            ]
            if draw(st.integers(0, 11)) == 0:
                inputs[name] = draw(hostile_values(prompt, name))
            elif is_wire(spec):
                inputs[name] = draw(st.sampled_from(sources)) if sources else draw(links(prompt))
            else:
                inputs[name] = draw(allowed(name, spec))
        prompt[str(index)] = {"class_type": class_type, "inputs": inputs}
    for node_id, node in list(prompt.items()):
        for output, kind in enumerate(nodes.info[node["class_type"]]["output"]):
            if kind == "IMAGE":
                inputs = {"images": [node_id, output]}
                prompt[f"show {node_id} {output}"] = {"class_type": "PreviewImage", "inputs": inputs}
            elif kind == "LATENT":
                inputs = {"samples": [node_id, output], "filename_prefix": "hostile"}
                prompt[f"save {node_id} {output}"] = {"class_type": "SaveLatent", "inputs": inputs}
    return prompt


def would_stop_the_host(prompt: dict[str, Any], nodes: Nodes) -> bool:
    """Whether ComfyUI itself gives up its queue for good on it, whatever packs it has.

    It follows links that it has not checked: those of inputs that a node does not have, and those disguised as values.
    A missing node at their end, or further up, ends the thread that runs prompts (seen in 0.3.75). So does any node
    without inputs, once a prompt runs at all. Newer versions (0.33 for one) also look up the output at once, so that
    one which the node does not have ends it, too.
    """
    unchecked = missing = beyond = False
    for node in prompt.values():
        if not isinstance(node, dict) or not isinstance(node.get("inputs"), dict):
            return True
        known = nodes.inputs(node.get("class_type"))
        for name, value in node["inputs"].items():
            disguised = isinstance(value, dict) and "__value__" in value
            link = value["__value__"] if disguised else value
            if isinstance(link, list) and len(link) == 2:
                free = disguised or name not in known
                unchecked |= free
                missing |= isinstance(link[0], str) and link[0] not in prompt
                beyond |= free and not _has_output(prompt, nodes, link)
    return (unchecked and missing) or (beyond and looks_up_outputs_at_once())


def _has_output(prompt: dict[str, Any], nodes: Nodes, link: list[Any]) -> bool:
    """Whether an output is there; of nodes that take no part nothing is known."""
    node = prompt.get(link[0]) if isinstance(link[0], str) else None
    class_type = node.get("class_type") if isinstance(node, dict) else None
    outputs = nodes.info[class_type]["output"] if isinstance(class_type, str) and class_type in nodes.info else []
    return type(link[1]) is int and -len(outputs) <= link[1] < len(outputs)


@cache
def looks_up_outputs_at_once() -> bool:
    """Whether the host at hand is one of those newer versions."""
    return "from_socket" in (find_host().path / "comfy_execution" / "graph.py").read_text()
