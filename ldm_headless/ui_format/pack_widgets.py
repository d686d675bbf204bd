"""Widgets that the JavaScript of well-known packs makes, where the file and the host's description tell them.

The Power Lora Loader of rgthree has a widget for each LoRA in the file. The nodes of the VideoHelperSuite keep values
by name, and VHS_VideoCombine has the widgets of its format, which the host lists. Imports the graph, the widget types
and the errors.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from ldm_backend.errors import printable, short_repr

from ..errors import WorkflowError
from .graph import Node
from .widget_types import Input, WidgetType

POWER_LORA = "Power Lora Loader (rgthree)"
VIDEO_COMBINE = "VHS_VideoCombine"
FILLS_NAMES = {VIDEO_COMBINE}
"""Node types of packs whose file name may hold placeholders."""

_VHS = "VHS_"
# The order of values in files of before they had names; None is a button.
_OLD_ORDER: dict[str, tuple[str | None, ...]] = {
    "VHS_LoadImages": ("directory", None, "image_load_cap", "skip_first_images", "select_every_nth"),
    "VHS_LoadImagesPath": ("directory", "image_load_cap", "skip_first_images", "select_every_nth"),
    VIDEO_COMBINE: ("frame_rate", "loop_count", "filename_prefix", "format", "pingpong", "save_image"),
    "VHS_LoadVideo": (
        *("video", "force_rate", "force_size", "frame_load_cap", "skip_first_frames", "select_every_nth"),
    ),
}
_OLD_ORDER["VHS_LoadVideoPath"] = _OLD_ORDER["VHS_LoadVideo"]
_RENAMED = {VIDEO_COMBINE: {"save_image": "save_output"}}
_SEPARATE = "Separate Model & Clip"


def plain_spec(name: str, spec: Sequence[Any]) -> list[Any]:
    """An input of the VideoHelperSuite without its own kinds of widgets, which keep their values as plain ones do."""
    if name.startswith(_VHS) and len(spec) > 1 and isinstance(spec[1], dict):
        kind = str(spec[1].get("widgetType", ""))
        if kind.startswith("VHS"):
            return [spec[0], {key: value for key, value in spec[1].items() if key != "widgetType"}]
    return list(spec)


def named(node: Node) -> Node:
    """The node with its values by name, where its pack keeps them so; what they were called before is translated."""
    return replace(node, values=_with_names(node)) if node.type.startswith(_VHS) else node


def _with_names(node: Node) -> dict[str, Any] | list[Any]:
    order = _OLD_ORDER.get(node.type)
    values = node.values
    if isinstance(values, list):
        if order is None or len(values) < len(order):
            return values
        rest = list(values[len(order) :])
        values = {name: value for name, value in zip(order, values, strict=False) if name is not None}
        values |= {f"value {number}": value for number, value in enumerate(rest, len(order) + 1)}
    renamed = _RENAMED.get(node.type, {})
    values = {
        renamed.get(name, name) if renamed.get(name) not in values else name: each for name, each in values.items()
    }
    return {**values, **_sizes(values.get("force_size"))}


def _sizes(force_size: Any) -> dict[str, int]:
    """The size that a choice of before stands for: `512x?`, `Disabled`, `Custom Width`, ..."""
    if not isinstance(force_size, str):
        return {}
    if "x" in force_size:
        width, _, height = force_size.partition("x")
        try:
            return {
                "custom_width": 0 if width == "?" else int(float(width)),
                "custom_height": 0 if height == "?" else int(float(height)),
            }
        except (ValueError, OverflowError) as error:
            raise WorkflowError(
                f"its force_size was saved with {short_repr(force_size)}; expected a size such as 512x?: open the file "
                "in the editor, set it, and save it"
            ) from error
    none = {"custom_width": 0} if force_size in ("Disabled", "Custom Height") else {}
    return none | ({"custom_height": 0} if force_size in ("Disabled", "Custom Width") else {})


def format_of(inputs: Sequence[Input], node: Node) -> str:
    """The format of a VHS_VideoCombine whose widgets it has, of its values by name; empty where it has none."""
    entry = next((each for each in inputs if each.name == "format"), None)
    if entry is None:
        return ""
    value = node.values.get("format") if isinstance(node.values, dict) else None
    choices = entry.options.get("options") or [""]
    return str(value if value is not None else entry.options.get("default", choices[0]))


def with_format(inputs: Sequence[Input], format_name: str) -> list[Input]:
    """The inputs with those of a format behind `format`, as the host lists them."""
    found = []
    for entry in inputs:
        found.append(entry)
        formats = entry.options.get("formats") if entry.name == "format" else None
        widgets = formats.get(format_name) if isinstance(formats, Mapping) else None
        found += [Input.read(str(widget[0]), list(widget[1:])) for widget in widgets or ()]
    return found


def lora_widgets(node: Node) -> list[tuple[WidgetType, Any]]:
    """The widgets of a Power Lora Loader with their values, as its export names them.

    Raises:
        WorkflowError: Its values are no list, or a LoRA among them is not what the pack writes.
    """
    if not isinstance(node.values, list):
        raise WorkflowError(
            f"its values are {printable(short_repr(node.values))}; expected a list, as the Power Lora Loader writes "
            "them. Open the file in the editor and save it"
        )
    values: list[tuple[str, Any]] = [("PowerLoraLoaderHeaderWidget", {"type": "PowerLoraLoaderHeaderWidget"})]
    for value in node.values:
        if isinstance(value, dict) and "lora" in value:
            values.append((f"lora_{len(values)}", _lora(value, node.properties.get("Show Strengths") == _SEPARATE)))
    values.append(("➕ Add Lora", ""))
    return [(WidgetType(name, "CUSTOM", saved=False), value) for name, value in values]


def lora_leftovers(node: Node) -> list[Any]:
    """Values of a Power Lora Loader that are no LoRA and not what its header and its dividers leave."""
    values = node.values if isinstance(node.values, list) else []
    return [
        value
        for value in values
        if not (isinstance(value, dict) and ("lora" in value or value == {"type": "PowerLoraLoaderHeaderWidget"}))
    ]


def _lora(value: Mapping[str, Any], separate: bool) -> dict[str, Any]:
    lora = {key: each for key, each in value.items() if separate or key != "strengthTwo"}
    numbers = [lora.get("strength"), *([lora.get("strengthTwo")] if separate else ())]
    odd = [
        each for each in numbers if each is not None and (isinstance(each, bool) or not isinstance(each, int | float))
    ]
    if odd or not isinstance(lora.get("on", True), bool) or not isinstance(lora["lora"], str | None):
        raise WorkflowError(
            f"a LoRA of it was saved as {short_repr(dict(value))}; expected on (true or false), lora (a name) and "
            "strength (a number): open the file in the editor, correct it, and save it"
        )
    if separate and lora.get("strengthTwo") is None:
        lora["strengthTwo"] = 1
    return lora
