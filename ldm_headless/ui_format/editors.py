"""What differs between the editors that hosts bring along, as far as the prompt of a graph goes.

A graph is converted as the host's own editor would. A host does not name its editor, but hosts of today write a key
into every description of a node that those with the older editor do not know. The rules of the older editor are those
of frontend 1.32.9, the others those of 1.49.6. Imports nothing of the package.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

MARK = "has_intermediate_output"
"""The key of a node's description that hosts with today's editor write."""

_WIDGETS = frozenset(
    {
        *("INT", "FLOAT", "BOOLEAN", "STRING", "COMBO", "MARKDOWN", "COLOR", "TEXTAREA", "CHART", "GALLERIA"),
        *("IMAGECOMPARE", "IMAGEUPLOAD", "AUDIOUPLOAD", "AUDIO_UI", "PREVIEW_3D", "LOAD_3D", "WEBCAM", "AUDIO_RECORD"),
    }
)
_WIDGETS_OF_TODAY = {
    *("BOUNDING_BOX", "BOUNDING_BOXES", "COLORS", "CURVE", "RANGE", "PAINTER", "COMPOSITOR", "VIDEO_EDIT"),
    *("LOAD_3D_ADVANCED", "COMFY_DYNAMICCOMBO_V3"),
}
_AUDIO_PLAYERS = frozenset({"LoadAudio", "SaveAudio", "PreviewAudio", "SaveAudioMP3", "SaveAudioOpus"})
_SAVING = frozenset(
    {
        *("SaveImage", "SaveVideo", "SaveAnimatedWEBP", "SaveWEBM", "SaveAudio", "SaveGLB", "SaveAnimatedPNG"),
        *("CLIPSave", "VAESave", "ModelSave", "LoraSave", "SaveLatent"),
    }
)
_SAVING_TODAY = {
    *("SaveImageAdvanced", "SaveSVGNode", "SaveAudioMP3", "SaveAudioOpus", "SaveAudioAdvanced", "Save3DAdvanced"),
    *("SaveGaussianSplat", "SavePointCloud"),
}


@dataclass(frozen=True)
class Editor:
    """The rules of one editor.

    Attributes:
        widgets: The kinds of inputs that have a widget. All others are sockets.
        audio_players: Node types that it gives a player.
        saving: Node types whose file name may hold placeholders.
        unsaved: Kinds of widgets whose value is not in files.
        unsent: Kinds of widgets whose value is not in the prompt.
        more_controls: Kinds of widgets that can have a control besides whole numbers and choices.
        keeps_slot: A widget has a slot even where its description says `socketless`.
        previews_text: Preview Any has a text, which goes into the prompt.
        sees_muted: A muted node still stands in the prompt's links, which are then left out; and what is inside a muted
            or bypassed subgraph is still sent. Today a muted node is as if it was not linked.
        fills_linked: The value on a subgraph's node gets inside also where its input is linked, as by a primitive.
        gives_views: The views on a subgraph's node of widgets inside have values of their own.
        grows_options: Custom Combo has as many options as are filled in.
    """

    widgets: frozenset[str] = _WIDGETS
    audio_players: frozenset[str] = _AUDIO_PLAYERS
    saving: frozenset[str] = _SAVING
    unsaved: frozenset[str] = frozenset({"AUDIO_UI"})
    unsent: frozenset[str] = frozenset({"IMAGEUPLOAD", "AUDIOUPLOAD"})
    more_controls: frozenset[str] = frozenset()
    keeps_slot: bool = False
    previews_text: bool = True
    sees_muted: bool = True
    fills_linked: bool = True
    gives_views: bool = False
    grows_options: bool = False


OLDER = Editor()
TODAY = Editor(
    widgets=_WIDGETS | _WIDGETS_OF_TODAY,
    audio_players=_AUDIO_PLAYERS | {"SaveAudioAdvanced"},
    saving=_SAVING | _SAVING_TODAY,
    unsaved=OLDER.unsaved | {"IMAGECOMPARE"},
    unsent=OLDER.unsent | {"AUDIO_UI"},
    more_controls=frozenset({"FLOAT"}),
    keeps_slot=True,
    previews_text=False,
    sees_muted=False,
    fills_linked=False,
    gives_views=True,
    grows_options=True,
)


def editor_of(object_info: Mapping[str, Any]) -> Editor:
    """The editor of the host that gave these descriptions."""
    marked = (MARK in entry for entry in object_info.values() if isinstance(entry, Mapping))
    return TODAY if any(marked) else OLDER
