"""The widgets of an input: their company (a seed brings a control, a file an upload button), defaults and rounding.

Which of them are saved in a file and which are sent, only the editor knows; this module says it again. Imports the
editors and the errors.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..errors import WorkflowError
from .editors import Editor

IN_BROWSER_ONLY = {"LOAD_3D": "a rendered 3D scene", "WEBCAM": "a picture of the camera", "AUDIO_RECORD": "a recording"}
"""Widgets whose value comes into being in a browser, and is in no file."""
IN_BROWSER_ONLY["LOAD_3D_ADVANCED"] = IN_BROWSER_ONLY["LOAD_3D"]

UNSET = object()
"""The value of a widget that has none: a choice from an empty list."""

CHOICE = "COMFY_DYNAMICCOMBO_V3"
"""A choice whose options bring inputs of their own."""
GROWING = "COMFY_AUTOGROW_V3"
"""Sockets of one kind, one more than are linked."""
FROM_LINKS = "COMFY_MATCHTYPE_V3"
"""A slot that takes the type of what is linked to it."""

_KNOWN_BUILDERS = (CHOICE, GROWING, FROM_LINKS)
_BUILDER = re.compile(r"COMFY_\w+_V\d+")
# Of editors after today's: they have widgets there, which this package does not know.
_LATER_WIDGETS = {"RESOLUTION_PREVIEW", "LIGHT_INFO_PREVIEW"}

_DEFAULTS = {"INT": 0, "FLOAT": 0, "BOOLEAN": False, "STRING": "", "MARKDOWN": "", "COLOR": "#000000", "TEXTAREA": ""}
_DEFAULTS |= {"GALLERIA": [], "CHART": {}, "IMAGECOMPARE": ["", ""], "AUDIO_UI": "", "PREVIEW_3D": "", "PAINTER": ""}
_DEFAULTS |= {"COLORS": [], "BOUNDING_BOXES": [], "COMPOSITOR": {}, "RANGE": {"min": 0.0, "max": 1.0}}
_DEFAULTS["BOUNDING_BOX"] = {"x": 0, "y": 0, "width": 512, "height": 512}
_DEFAULTS["CURVE"] = {"points": [[0, 0], [1, 1]], "interpolation": "monotone_cubic"}
_DEFAULTS["VIDEO_EDIT"] = {
    "trim": {"start_time": 0, "duration": 0},
    "crop": {"x": 0, "y": 0, "width": 0, "height": 0},
}
SEEDS = ("seed", "noise_seed")


@dataclass(frozen=True)
class WidgetType:
    """A widget. `saved`: it has a place in `widgets_values`. `sent`: its value is an input of the prompt."""

    name: str
    kind: str
    options: Mapping[str, Any] = field(default_factory=dict, repr=False)
    default: Any = None
    saved: bool = True
    sent: bool = True

    def snap(self, value: Any) -> Any:
        """A value as the widget keeps it when something sets it: numbers are rounded to its step."""
        if self.kind not in ("INT", "FLOAT") or isinstance(value, bool) or not isinstance(value, int | float):
            return value
        return self._snap_int(value) if self.kind == "INT" else self._snap_float(value)

    def clamp(self, value: Any) -> Any:
        """A number inside the widget's range."""
        if isinstance(value, bool) or not isinstance(value, int | float):
            return value
        return min(max(value, self.options.get("min", 0)), self.options.get("max", 2048))

    def _snap_int(self, value: float) -> float:
        step = self.options.get("step") or 1
        if step == 1:
            return value if isinstance(value, int) else _floor(value + 0.5)
        offset = math.fmod(self.options.get("min") or 0, step)
        snapped = _floor((value - offset) / step + 0.5) * step + offset
        if not math.isfinite(snapped):  # a number near the largest that there is
            return value
        return int(snapped) if float(snapped).is_integer() else snapped

    def _snap_float(self, value: float) -> float:
        step = self.options.get("step", 0.5)
        precision = max(0, -math.floor(math.log10(step))) if step > 0 else 0
        unit = self.options.get("round") or (10.0**-precision if precision else 0)
        if not unit:
            return value
        digits = precision if self.options.get("step") else max(0, -math.floor(math.log10(unit)))
        snapped = _floor(value / unit + 0.5) * unit
        snapped = round(snapped, digits) if math.isfinite(snapped) else value
        return min(max(snapped, self.options.get("min", 0)), self.options.get("max", 2048))


def _floor(value: float) -> float:
    return math.floor(value) if math.isfinite(value) else value


@dataclass(frozen=True)
class Input:
    """An input of the host's description. `kind` of a list of choices is COMBO, with the choices in the options."""

    name: str
    kind: str
    options: dict[str, Any]

    @classmethod
    def read(cls, name: str, spec: list[Any]) -> "Input":
        """An entry of the description, as it stands there.

        Raises:
            WorkflowError: It is of a kind that builds inputs or has a widget, but in a way that is not known here.
        """
        options = dict(spec[1]) if len(spec) > 1 and spec[1] else {}
        if isinstance(spec[0], list):
            return cls(name, "COMBO", options | {"options": spec[0]})
        entry = cls(name, str(spec[0]), options)
        unknown = _BUILDER.fullmatch(entry.kind) and entry.kind not in _KNOWN_BUILDERS
        if unknown or entry.widget_kind in _LATER_WIDGETS:
            raise WorkflowError(
                f"input {name!r} is of kind {entry.widget_kind}, which this version cannot convert; "
                "use Export (API) in the editor"
            )
        return entry

    @property
    def widget_kind(self) -> str:
        """The kind of its widget, if it has one."""
        return self.options.get("widgetType") or self.kind

    @property
    def wants_socket(self) -> bool:
        """Whether it is a socket though its kind has a widget."""
        return bool(self.options.get("forceInput"))

    def has_widget(self, editor: Editor) -> bool:
        """Whether the editor shows a widget for it."""
        return self.widget_kind in editor.widgets and not self.wants_socket

    def widgets(self, editor: Editor) -> list[WidgetType]:
        """Its widget and the widget's company, in the order in which a file holds their values."""
        kind, options = self.widget_kind, self.options
        saved, sent = kind not in editor.unsaved, kind not in editor.unsent
        widget = WidgetType(self.name, kind, options, _default(kind, options), saved, sent)
        return [widget, *self._company(editor)]

    def _company(self, editor: Editor) -> list[WidgetType]:
        """Widgets that the editor adds behind that of the input."""
        kind, options = self.widget_kind, self.options
        control = WidgetType("control_after_generate", "CONTROL", sent=False)
        company = []
        if kind == "COMBO" and options.get("remote"):
            company.append(WidgetType("Auto-refresh after generation", "BOOLEAN", sent=False))
            if options["remote"].get("refresh_button"):
                company.append(WidgetType("refresh", "BUTTON", default="refresh"))
        if kind == "INT" and options.get("control_after_generate", self.name in SEEDS):
            company.append(control)
        if kind in editor.more_controls and options.get("control_after_generate"):
            company.append(control)
        if kind == "COMBO" and options.get("control_after_generate") and not options.get("multi_select"):
            company += [control, WidgetType("control_filter_list", "CONTROL", sent=False)]
        if kind == "BOUNDING_BOX":
            company += [WidgetType(side, "INT", sent=False) for side in ("x", "y", "width", "height")]
        return company


def _default(kind: str, options: Mapping[str, Any]) -> Any:
    if kind == CHOICE:
        return options["options"][0]["key"] if options["options"] else UNSET
    if kind == "VIDEO_EDIT" and options.get("default") is None:
        features = options.get("features", ("trim", "crop"))
        return {name: value for name, value in _DEFAULTS[kind].items() if name in features}
    if kind != "COMBO":
        default = options.get("default")
        return _DEFAULTS.get(kind) if default is None else default
    if options.get("multi_select"):
        return []
    choices = options.get("options") or []
    return options.get("default") or (choices[0] if choices else "Loading..." if options.get("remote") else UNSET)
