"""Saved values that find no widget: converted where it is known how, left out where they change nothing, or refused."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from editor_records import RECORDS, record

from ldm_headless.errors import WorkflowError
from ldm_headless.ui_format.export import export_prompt

INT = ["INT", {"default": 4}]
H264 = [
    ["crf", "INT", {"default": 19, "min": 0, "max": 100}],
    ["pix_fmt", ["yuv420p", "yuv420p10le"]],
    ["save_metadata", "BOOLEAN", {"default": True}],
]
FORMATS = {"video/h264-mp4": H264, "video/webm": H264[:1], "image/webp": [["lossless", "BOOLEAN", {"default": True}]]}
INFO: dict[str, Any] = {
    "Plain": {"input": {"required": {"size": INT, "text": ["STRING", {}]}}, "output": ["IMAGE"]},
    "Seeded": {"input": {"required": {"seed": ["INT", {}], "steps": INT}}, "output": ["IMAGE"]},
    "Picture": {"input": {"required": {"image": [["a.png", "b.png"], {}]}}, "output": ["IMAGE"]},
    "Service": {"input": {"required": {"prompt": ["STRING", {}]}}, "output": ["IMAGE"], "api_node": True},
    "ShowText|pysssss": {"input": {"required": {"text": ["STRING", {"forceInput": True}]}}, "output": ["STRING"]},
    "Any Shower": {"input": {"required": {"anything": ["*"]}}, "output": [], "output_node": True},
    "Previewer": {"input": {"required": {"images": ["IMAGE"]}}, "output": [], "output_node": True},
    "Value": {"input": {}, "output": ["INT"]},
    "Power Lora Loader (rgthree)": {
        "input": {"required": {}, "optional": {"model": ["MODEL"], "clip": ["CLIP"]}, "hidden": {}},
        "output": ["MODEL", "CLIP"],
    },
    "VHS_VideoCombine": {
        "input": {
            "required": {
                "images": ["IMAGE"],
                "frame_rate": ["FLOAT", {"default": 8, "min": 1, "step": 1}],
                "loop_count": ["INT", {"default": 0}],
                "filename_prefix": ["STRING", {"default": "AnimateDiff"}],
                "format": [["image/gif", *FORMATS, "video/ProRes"], {"formats": FORMATS}],
                "pingpong": ["BOOLEAN", {"default": False}],
                "save_output": ["BOOLEAN", {"default": True}],
            },
            "optional": {"audio": ["AUDIO"]},
        },
        "output": ["VHS_FILENAMES"],
        "output_node": True,
    },
    "VHS_LoadVideo": {
        "input": {
            "required": {
                "video": [["a.mp4"], {"video_upload": True}],
                "force_rate": ["FLOAT", {"default": 0}],
                "custom_width": ["INT", {"default": 0}],
                "custom_height": ["INT", {"default": 0}],
                "frame_load_cap": ["INT", {"default": 0}],
                "skip_first_frames": ["INT", {"default": 0}],
                "select_every_nth": ["INT", {"default": 1}],
                "start_time": ["FLOAT", {"default": 0, "widgetType": "VHSTIMESTAMP"}],
            }
        },
        "output": ["IMAGE"],
    },
}


def inputs_of(kind: str, values: Any, **more: Any) -> dict[str, Any]:
    node = {"id": 7, "type": kind, "inputs": more.pop("inputs", []), "widgets_values": values, **more}
    source = {"id": 8, "type": "Value", "outputs": [{"name": "INT", "type": "INT", "links": [1]}]}
    graph = {"nodes": [source, node], "links": [[1, 8, 0, 7, 0, "INT"]], "version": 0.4}
    return export_prompt(graph, INFO, "file.json").get("7", {}).get("inputs", {})


# What a pack's JavaScript makes, and the file tells

HEADER = {"type": "PowerLoraLoaderHeaderWidget"}


def lora(name: str | None, strength: float = 1, on: bool = True, two: float | None = None) -> dict[str, Any]:
    return {"on": on, "lora": name, "strength": strength, "strengthTwo": two}


@pytest.mark.parametrize(
    ("values", "shown", "expected"),
    [
        ([{}, HEADER, {}, ""], None, {}),
        ([None, HEADER, lora("a.st"), None, ""], None, {"lora_1": {"on": True, "lora": "a.st", "strength": 1}}),
        (
            [{}, HEADER, lora("a.st", 0.8, two=0.5), lora("b.st", -1, on=False), lora(None), {}, ""],
            "Single Strength",
            {
                "lora_1": {"on": True, "lora": "a.st", "strength": 0.8},
                "lora_2": {"on": False, "lora": "b.st", "strength": -1},
                "lora_3": {"on": True, "lora": None, "strength": 1},
            },
        ),
        (
            [{}, HEADER, lora("a.st", 0.8, two=0.5), lora("b.st", 2), {}, ""],
            "Separate Model & Clip",
            {
                "lora_1": {"on": True, "lora": "a.st", "strength": 0.8, "strengthTwo": 0.5},
                "lora_2": {"on": True, "lora": "b.st", "strength": 2, "strengthTwo": 1},
            },
        ),
        ([{"lora": "a.st", "strength": 0.8}], None, {"lora_1": {"lora": "a.st", "strength": 0.8}}),
    ],
)
def test_the_power_lora_loader_keeps_its_loras(values: list[Any], shown: str | None, expected: dict[str, Any]) -> None:
    properties = {} if shown is None else {"Show Strengths": shown}
    inputs = inputs_of("Power Lora Loader (rgthree)", values, properties=properties)
    assert inputs == {"PowerLoraLoaderHeaderWidget": HEADER, **expected, "➕ Add Lora": ""}
    assert list(inputs) == ["PowerLoraLoaderHeaderWidget", *expected, "➕ Add Lora"]


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ([lora("a.st"), {"name": "b.st", "weight": 1}], r"Nothing takes {'name': 'b.st', 'weight': 1}.*Export \(API\)"),
        ([lora("a.st"), "b.st"], "Nothing takes 'b.st'"),
        ([lora("a.st", "1")], r"a LoRA of it was saved as .*strength \(a number\)"),  # type: ignore[arg-type]
        ([{"on": 1, "lora": "a"}], "a LoRA of it was saved as"),
        ([{"on": True, "lora": ["a"]}], "a LoRA of it was saved as"),
        ({"lora_1": lora("a.st")}, "expected a list, as the Power Lora Loader writes"),
    ],
)
def test_other_values_of_the_power_lora_loader_are_refused(values: Any, words: str) -> None:
    with pytest.raises(WorkflowError, match=rf"node 7 \(Power Lora Loader \(rgthree\)\): .*{words}"):
        inputs_of("Power Lora Loader (rgthree)", values)


PLAYER = {"hidden": False, "paused": False, "params": {"filename": "a.mp4", "type": "temp"}, "muted": False}
COMBINE = {"frame_rate": 8, "loop_count": 0, "filename_prefix": "a", "pingpong": False, "save_output": False}


@pytest.mark.parametrize(
    ("saved", "sent"),
    [
        (
            {"format": "video/h264-mp4", "crf": 60, "pix_fmt": "yuv420p10le", "save_metadata": False},
            {"format": "video/h264-mp4", "crf": 60, "pix_fmt": "yuv420p10le", "save_metadata": False},
        ),
        (
            {"format": "video/h264-mp4", "crf": 60},
            {"format": "video/h264-mp4", "crf": 60, "pix_fmt": "yuv420p", "save_metadata": True},
        ),
        ({"format": "video/webm"}, {"format": "video/webm", "crf": 19}),
        ({"format": "image/webp", "lossless": False}, {"format": "image/webp", "lossless": False}),
        ({"format": "image/gif"}, {"format": "image/gif"}),
        ({"format": "image/gif", "save_image": True, "save_output": False}, None),
    ],
)
def test_video_combine_keeps_the_widgets_of_its_format(saved: dict[str, Any], sent: dict[str, Any] | None) -> None:
    values = COMBINE | saved | {"videopreview": PLAYER}
    if sent is None:
        with pytest.raises(WorkflowError, match="with values of save_image"):
            inputs_of("VHS_VideoCombine", values)
        return
    inputs = inputs_of("VHS_VideoCombine", values)
    assert inputs == COMBINE | sent
    assert list(inputs)[3 : 3 + len(sent)] == list(sent)


def test_video_combine_of_before() -> None:
    renamed = {key: value for key, value in COMBINE.items() if key != "save_output"} | {"save_image": False}
    assert inputs_of("VHS_VideoCombine", {**renamed, "format": "image/gif"}) == {**COMBINE, "format": "image/gif"}
    inputs = inputs_of("VHS_VideoCombine", [12, 1, "x", "video/webm", True, False, PLAYER])
    assert inputs == {
        **{"frame_rate": 12, "loop_count": 1, "filename_prefix": "x", "format": "video/webm", "crf": 19},
        **{"pingpong": True, "save_output": False},
    }


def test_a_widget_of_a_format_may_be_linked() -> None:
    slot = {"name": "crf", "type": "INT", "link": 1, "widget": {"name": "crf"}}
    values = {**COMBINE, "format": "video/webm", "crf": 3}
    assert inputs_of("VHS_VideoCombine", values, inputs=[slot])["crf"] == ["8", 0]
    with pytest.raises(WorkflowError, match="its input 'crf' is linked, but is no input of it here"):
        inputs_of("VHS_VideoCombine", {**COMBINE, "format": "image/gif"}, inputs=[slot])


def test_names_of_video_combine_are_filled_in() -> None:
    inputs = inputs_of(
        "VHS_VideoCombine", {**COMBINE, "filename_prefix": "%Seed.size%_%date:yy%", "format": "image/gif"}
    )
    assert inputs["filename_prefix"][-3] == "_"
    assert inputs["filename_prefix"][-2:].isdecimal()


@pytest.mark.parametrize(
    ("values", "word"),
    [
        ({**COMBINE, "format": "video/ProRes", "profile": "2"}, "profile"),
        ({**COMBINE, "format": "image/gif", "crf": 5}, "crf"),
        ({**COMBINE, "format": "video/h264-mp4", "bitrate": 9}, "bitrate"),
    ],
)
def test_a_format_that_the_host_lacks_is_refused(values: dict[str, Any], word: str) -> None:
    with pytest.raises(WorkflowError, match=rf"node 7 \(VHS_VideoCombine\): it was saved with values of {word}"):
        inputs_of("VHS_VideoCombine", values)


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ("512x?", (512, 0)),
        ("?x256", (0, 256)),
        ("256x256", (256, 256)),
        ("Disabled", (0, 0)),
        ("Custom Width", (304, 0)),
        ("Custom Height", (0, 312)),
        ("Custom", (304, 312)),
    ],
)
def test_load_video_of_before_keeps_its_size(size: str, expected: tuple[int, int]) -> None:
    values = {"video": "a.mp4", "force_size": size, "custom_width": 304, "custom_height": 312, "start_time": 1.5}
    values |= {"choose video to upload": "image", "videopreview": PLAYER}
    inputs = inputs_of("VHS_LoadVideo", values)
    assert (inputs["custom_width"], inputs["custom_height"]) == expected
    assert (inputs["video"], inputs["start_time"], inputs["select_every_nth"]) == ("a.mp4", 1.5, 1)
    with pytest.raises(WorkflowError, match="its force_size was saved with"):
        inputs_of("VHS_LoadVideo", {**values, "force_size": "axb"})


# What changes nothing

FILE = {"filename": "a.png", "subfolder": "", "type": "temp"}


@pytest.mark.parametrize(
    ("kind", "values", "others"),
    [
        ("Plain", [5, "x"], [None]),
        ("Plain", [5, "x"], ["", None, {}, []]),
        ("Plain", [5, "x"], ["fixed"]),
        ("Plain", [5, "x"], [PLAYER]),
        ("Plain", [5, "x"], [[FILE, FILE]]),
        ("Plain", [None, "x"], [""]),
        ("Seeded", [5, "randomize", 9], ["", "", ""]),
        ("Seeded", [5, "", 9], ["", ""]),
        ("Picture", ["a.png"], ["image"]),
        ("Any Shower", [], [["a text"]]),
        ("Service", ["x"], ["Status: Completed\nPrice: $0.1", ""]),
        ("ShowText|pysssss", [], [["a text", "another"]]),
        ("ShowText|pysssss", [], ["a text"]),
    ],
)
def test_what_changes_nothing_is_left_out(kind: str, values: list[Any], others: list[Any]) -> None:
    assert inputs_of(kind, values + others) == inputs_of(kind, values)


# What may change something

SURPLUS: list[Any] = [3, 0, 0.5, True, False, "euler", "image", [1], ["a"], {"a": 1}, [{"strength": 1}], "fixed width"]


@pytest.mark.parametrize("value", SURPLUS, ids=repr)
@pytest.mark.parametrize("more", [[], ["", None]], ids=["last", "among others"])
def test_any_other_value_is_refused_with_node_value_and_way_out(value: Any, more: list[Any]) -> None:
    with pytest.raises(WorkflowError) as caught:
        inputs_of("Plain", [5, "x", value, *more])
    message = str(caught.value)
    assert message.startswith("node 7 (Plain): it was saved with")
    assert f"has 2 here: size, text. Nothing takes {value!r}" in message
    assert "use Export (API) in the editor" in message


@pytest.mark.parametrize("value", SURPLUS, ids=repr)
def test_any_other_name_is_refused(value: Any) -> None:
    with pytest.raises(WorkflowError, match=r"node 7 \(Plain\): it was saved with values of other.*Export \(API\)"):
        inputs_of("Plain", {"size": 5, "text": "x", "other": value})


def test_a_value_that_slid_is_refused() -> None:
    """A pack's own control behind a number: the widgets after it would get their neighbours' values."""
    with pytest.raises(WorkflowError, match="'text' was saved with 3, but takes a text"):
        inputs_of("Plain", [5, 3, ""])
    with pytest.raises(WorkflowError, match="'size' was saved with 'randomize', but takes a number"):
        inputs_of("Plain", ["randomize", "x", "fixed"])


@pytest.mark.parametrize(
    ("kind", "values"),
    [("Any Shower", [3]), ("Previewer", ["a text"]), ("Service", ["x", 3]), ("Picture", ["a", "image"])],
)
def test_lists_of_what_changes_nothing_end_somewhere(kind: str, values: list[Any]) -> None:
    with pytest.raises(WorkflowError, match=rf"node 7 \({kind}\): .*Nothing takes"):
        inputs_of(kind, values)


@pytest.mark.parametrize("mode", [2, 4])
def test_a_node_that_does_not_run_may_have_any_values(mode: int) -> None:
    assert inputs_of("Plain", [5, "x", 3], mode=mode) == {}


def test_a_link_to_a_widget_that_is_not_there_is_refused() -> None:
    slot = {"name": "strength", "type": "INT", "link": 1, "widget": {"name": "strength"}}
    with pytest.raises(WorkflowError, match=r"'strength' is linked, but is no input of it here.*Export \(API\)"):
        inputs_of("Plain", [5, "x"], inputs=[slot])
    assert inputs_of("Plain", [5, "x"], inputs=[{**slot, "link": None}]) == {"size": 5, "text": "x"}


def test_values_more_on_any_node_are_refused() -> None:
    """Of every recorded graph, for every node of the host that runs and keeps its values by place."""
    tried = 0
    for path in RECORDS:
        known = record(path.stem)
        for number, node in enumerate(known["graph"]["nodes"]):
            values = node.get("widgets_values")
            if (
                str(node["id"]) not in known["expected"]
                or not isinstance(values, list)
                or node["type"] == "CustomCombo"
            ):
                continue
            graph = copy.deepcopy(known["graph"])
            graph["nodes"][number]["widgets_values"] += [12.5] * 20  # some are saved with fewer values than widgets
            with pytest.raises(WorkflowError, match=rf"^node {node['id']} .*(Nothing takes 12\.5|was saved with)"):
                export_prompt(graph, known["object_info"], "x")
            tried += 1
    assert tried > 30
