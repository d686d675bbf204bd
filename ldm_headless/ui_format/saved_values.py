"""Values as files keep them: whether they suit their widgets, and those that no widget takes.

A file keeps the values of a node by their place. Where more are there than the node has widgets, a pack's JavaScript
made the others, or the file comes from another version of the node. What they would change is not known, so that only
those are left out that can change nothing: the lists below, with the reasons. Imports the widget types and the errors.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ldm_backend.errors import first_names, printable, short_repr

from ..errors import WorkflowError
from .widget_types import CHOICE, WidgetType

_CONTROLS = ("fixed", "increment", "decrement", "randomize", "increment-wrap")
# What buttons and what editors of before leave. None, empty texts, lists and objects: buttons, dividers and previews
# that show nothing yet. Words of control: how a seed goes on after the run, which the saved seed does not depend on.
_EMPTY: tuple[Any, ...] = (None, "", [], {})
_UPLOADS = ("image", "video", "audio", "file")  # of a button that uploads, beside the name of a file
_FILE_NAME = re.compile(r"\.\w{2,5}( \[\w{1,10}\])?$")
# Previews: where a file is that was shown, and whether the player shows it.
_PREVIEW = {"hidden", "paused", "muted", "params"}
_SHOWN_FILE = {
    "filename",
    "subfolder",
    "type",
    "format",
    "url",
    "name",
    "selected",
    "frame_rate",
    "workflow",
    "fullpath",
}
# Keys of values that are kept by name.
_NAMED = {
    "videopreview": "the player of a video",
    "audiopreview": "the player of a sound",
    "choose video to upload": "a button",
    "choose audio to upload": "a button",
    "choose folder to upload": "a button",
    "choose file to upload": "a button",
    "upload": "a button",
    "control_after_generate": "how a seed goes on after the run",
    "force_size": "a size of before, which became custom_width and custom_height",
}
# Types that show what came out of a run, as texts or as where pictures are; it is saved, and no input of theirs.
_SHOWING = {
    *("PreviewAny", "GetImageSize", "ShowText|pysssss", "Display Any (rgthree)", "Display Int (rgthree)"),
    *("Image Comparer (rgthree)", "easy showAnything", "easy showTensorShape", "easy showLoaderSettingsNames"),
    *("ShowTextForGPT", "Show any [Crystools]", "Show any to JSON [Crystools]", "Light-Tool: ShowText"),
}
_COUNTING = {"VHS_BatchManager": {"count"}}  # how many prompts the open page has queued


def shows_texts(name: str, description: Mapping[str, Any], sockets: Iterable[str]) -> bool:
    """Whether nodes of a type save the text that they showed.

    Those of services do, with the state of the request, and nodes that only show what any input, or a text, is.

    Args:
        name: Of the type.
        description: The host's.
        sockets: The kinds of its inputs, if none of them has a widget.
    """
    shows_inputs = description.get("output_node") is True and any(kind in ("*", "STRING") for kind in sockets)
    return name in _SHOWING or description.get("api_node") is True or shows_inputs


def surplus_of_list(kind: str, shows: bool, widgets: Sequence[WidgetType], values: Sequence[Any]) -> str:
    """What is wrong with values of which there are more than widgets; empty when the others can change nothing.

    Args:
        kind: The node's type.
        shows: See `shows_texts`.
        widgets: Those that are saved, in their order.
        values: All.
    """
    others = values[len(widgets) :]
    if not others:
        return ""
    has_file = _has_file(values)
    unknown = [value for value in others if not _is_leftover(value, has_file, shows)]
    if unknown:
        return _told(f"with {len(values)} values, but has {len(widgets)} here: {_shown(widgets)}", unknown)
    return "" if kind in _SHOWING else misfit(widgets, values)


def misfit(widgets: Sequence[WidgetType], values: Sequence[Any]) -> str:
    """What is wrong with a value that slid to the place of another one; empty when all suit their widgets."""
    try:
        for widget, value in zip(widgets, values, strict=False):
            if value is not None and widget.sent:
                check_value(widget, value)
    except WorkflowError as error:
        return str(error)
    return ""


def surplus_of_names(kind: str, names: Iterable[str], values: Mapping[str, Any]) -> str:
    """The same of values that are kept by the names of their widgets."""
    known = {*names, *_NAMED, *_COUNTING.get(kind, ())}
    has_file = _has_file(values.values())
    unknown = {
        name: value
        for name, value in values.items()
        if name not in known and not _is_leftover(value, has_file, kind in _SHOWING)
    }
    if not unknown:
        return ""
    return _told(f"with values of {first_names(list(unknown))}, which it does not have here", list(unknown.values()))


def check_value(widget: WidgetType, value: Any) -> None:
    """A value that does not suit its widget has slid there from a neighbour.

    Raises:
        WorkflowError: It does not suit.
    """
    if widget.kind == CHOICE:
        keys = [option["key"] for option in widget.options["options"]]
        suits, wanted = value in keys, "one of " + ", ".join(repr(key) for key in keys)
    elif widget.kind in ("INT", "FLOAT"):
        suits, wanted = isinstance(value, int | float) and not isinstance(value, bool), "a number"
    elif widget.kind == "BOOLEAN":
        suits, wanted = isinstance(value, bool), "true or false"
    elif widget.kind == "STRING":
        suits, wanted = isinstance(value, str), "a text"
    elif widget.kind == "COMBO" and not widget.options.get("multi_select"):
        suits, wanted = isinstance(value, str | int | float) and not isinstance(value, bool), "a choice"
    elif widget.kind == "CONTROL":
        suits, wanted = value in _CONTROLS or widget.name == "control_filter_list", "how it changes"
    else:
        return
    if not suits:
        raise WorkflowError(
            f"its input {widget.name!r} was saved with {value!r}, but takes {wanted}; the file comes from another "
            "version of the node: open it in the editor of this host, set the value, and save it"
        )


def _shown(widgets: Iterable[WidgetType]) -> str:
    """The names of the widgets that are saved, for messages."""
    return ", ".join(widget.name for widget in widgets if widget.saved) or "none"


def _has_file(values: Iterable[Any]) -> bool:
    return any(isinstance(each, str) and _FILE_NAME.search(each) for each in values)


def _is_leftover(value: Any, has_file: bool, shows: bool) -> bool:
    if any(type(value) is type(empty) and value == empty for empty in _EMPTY) or value in _CONTROLS:
        return True
    if isinstance(value, str) and value in _UPLOADS:
        return has_file
    return _is_preview(value) or (shows and isinstance(value, str | list))


def _is_preview(value: Any) -> bool:
    if isinstance(value, list):
        return all(isinstance(each, dict) and _is_preview(each) for each in value)
    if not isinstance(value, dict):
        return False
    return "params" in value and value.keys() <= _PREVIEW or "filename" in value and value.keys() <= _SHOWN_FILE


def _told(what: str, unknown: Sequence[Any]) -> str:
    more = f" (and {len(unknown) - 1} more)" if len(unknown) > 1 else ""
    return (
        f"it was saved {what}. Nothing takes {printable(short_repr(unknown[0]))}{more}. If a pack's JavaScript makes "
        "widgets for that, only a browser knows them: use Export (API) in the editor. If the file comes from another "
        "version of the node, open it in the editor of this host, correct the values, and save it"
    )
