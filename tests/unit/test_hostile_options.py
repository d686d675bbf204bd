"""Every option of every command, with values that nobody expects: usage or a message of the family, soon, no traceback.

The commands and their options are those that the parser has, so that a new one is in it.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.main import get_command

from ldm_headless import cli

DEEP, LONG = "/".join("d" * 2000), "/".join(["deep"] * 2000)
HOSTILE = (
    "", " ", "1e400", "-1e400", "nan", "-1", "0", "-0.5", "9" * 5000, "1" + "0" * 300, "2147483648", "x" * 300,
    "x" * 5000, DEEP, "/" + DEEP, LONG, "a\0b", "\0", "\udcff", "a\udc80/b", "\x1b[2J", "\u202e", "-", "--",
    "/dev/zero", "/dev/null/x", "/proc/1/mem", "http://[", "http://a:b@c:d/", "::", "=", "1.a=", "|", "{",
    "{0.__class__}", "~nobody-of-that-name/x",
)  # fmt: skip
COMMANDS: dict[str, Any] = vars(get_command(cli.app))["commands"]
OPTIONS = [(name, parameter) for name, command in COMMANDS.items() for parameter in command.params]
STEP = 1 if os.environ.get("LDM_OPTIONS") else 4  # every fourth value, for each option others; all in the long form
SECONDS = 5.0
# Valid arguments of each command, so that each option is looked at. An option comes in the place of the same here.
PROMPT = '{"1": {"class_type": "A", "inputs": {"seed": 1}}}'


def base(command: str, model: Path, folder: Path) -> tuple[list[str], list[str]]:
    """Arguments and options that are well."""
    pictures = folder / "pictures"
    match command:
        case "install-private-host":
            return [str(folder / "host")], ["--version", "0"]  # no such version, or it would be installed
        case "run":
            return [str(folder / "a.json")], [
                "--server",
                "http://127.0.0.1:9",
                "--wait",
                "0",
                "--out",
                str(folder / "out"),
            ]
        case "generate":
            options = ["--seeds", "0", "--steps", "1", "--device", "cpu", "--out", str(folder / "out")]
            return [str(model)], options
        case "upscale":
            options = ["--model", str(model.parent / "upscaler"), "--out", str(folder / "out")]
            return [str(pictures)], [*options, "--steps", "1", "--device", "cpu"]
        case "inpaint":
            options = ["--model", str(model.parent / "inpainter"), "--out", str(folder / "out")]
            return [str(pictures), str(folder / "masks")], [*options, "--steps", "1", "--device", "cpu"]
        case "restore":
            options = ["--task", "upscale", "--factor", "2", "--model", str(model), "--out", str(folder / "out")]
            return [str(pictures)], [*options, "--steps", "1", "--device", "cpu"]
        case "evaluate":
            return [str(pictures), str(pictures)], ["--no-distance"]
        case "convert":
            return [str(model), str(folder / "made")], []
        case "inspect" | "verify":
            return [str(model)], ["--device", "cpu"] if command == "verify" else []
        case "fit-steps":
            # A fit takes longer than a value may: this model is refused, after the options.
            return [str(model.parent / "upscaler")], ["--device", "cpu", "--out", str(folder / "steps.json")]
        case "download":
            return ["a/b"], ["--to", str(folder / "model")]
    raise AssertionError(f"{command} is new: say what it takes")


def with_value(command: str, parameter: Any, value: str, model: Path, folder: Path) -> list[str]:
    """The command's arguments with this value in the place of one."""
    arguments, options = base(command, model, folder)
    if not parameter.opts[0].startswith("-"):
        own = [each for each in COMMANDS[command].params if not each.opts[0].startswith("-")]
        arguments[[each.name for each in own].index(parameter.name)] = value
        return [command, *options, "--", *arguments]
    if parameter.is_flag:
        return [command, *options, *arguments, f"{parameter.opts[0]}={value}"]
    if parameter.opts[0] in options:
        at = options.index(parameter.opts[0])
        options[at : at + 2] = []
    return [command, *options, parameter.opts[0], value, *arguments]


def contents(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory, tiny: Any) -> Path:
    from conditional_models import INPAINTING, SUPER_RESOLUTION, write_conditional_folder
    from model_folder import write_model_folder

    folder = tmp_path_factory.mktemp("options")
    write_conditional_folder(folder / "upscaler", SUPER_RESOLUTION)
    write_conditional_folder(folder / "inpainter", INPAINTING)
    return write_model_folder(folder / "tiny", tiny.config)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder of the command, in one that shows what was written beside it."""
    inside = tmp_path / "beside" / "inside"
    for name, value in (("pictures", 0), ("masks", 255)):
        (inside / name).mkdir(parents=True)
        Image.fromarray(np.full((8, 8, 3), value, np.uint8)).save(inside / name / "seed-0.png")
    (inside / "a.json").write_text(PROMPT)
    monkeypatch.chdir(inside)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HOME", str(inside))
    for name in ("LDM_SERVER_TOKEN", "COMFYUI_PATH", "COMFYUI_PYTHON"):
        monkeypatch.delenv(name, raising=False)
    return inside


@pytest.mark.slow
@pytest.mark.usefixtures("in_process")
@pytest.mark.parametrize(("command", "parameter"), OPTIONS, ids=lambda each: getattr(each, "name", each))
def test_no_value_of_an_option_is_a_fault(
    command: str,
    parameter: Any,
    model: Path,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    problems = []
    there = contents(folder.parent.parent)
    first = OPTIONS.index((command, parameter)) % STEP
    for value in HOSTILE[first::STEP]:
        arguments = with_value(command, parameter, value, model, folder)
        monkeypatch.setattr("sys.argv", ["ldm", *arguments])
        start = time.monotonic()
        with pytest.raises(SystemExit) as end:
            cli.main()
        seconds = time.monotonic() - start
        out, err = capsys.readouterr()
        code = end.value.code or 0
        if code not in (0, 1, 2, 3, 4) or "Traceback" in out + err or seconds > SECONDS or (code and not err):
            problems.append((value[:40], code, round(seconds, 1), (out + err)[-300:]))
        beside = {name for name in contents(folder.parent.parent) - there if not name.startswith("beside/inside")}
        if beside:
            problems.append((value[:40], "wrote", beside))
    assert problems == []
    assert os.getcwd() == str(folder)


@pytest.mark.usefixtures("in_process")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("inspect", "/".join("d" * 2000)), "PATH leads through more than 200 folders in each other: 'd/d/"),
        (("inspect", "x" * 300), "is no path here (File name too long)"),
        (("evaluate", "/dev/zero", "."), "A: /dev/zero is a device; expected a file or folder"),
        (("generate", "a\0b", "--seeds", "0"), "CHECKPOINT holds a NUL"),
        (("generate", ".", "--seeds", "\udcff"), "--seeds is no UTF-8 text"),
        (("generate", ".", "--seeds", "9" * 5000), "cannot read '9999"),
        (("generate", ".", "--seeds", "0", "--steps", "1" * 300), "--steps is a number of extreme size"),
        (("generate", ".", "--seeds", "0", "--steps", "1" * 5000), "--steps"),
        (("generate", ".", "--seeds", "0", "--eta", "1e400"), "--eta"),
        (("convert", ".", ""), "exists already, and nothing is overwritten"),
    ],
)
def test_what_nothing_could_use_is_named(
    arguments: tuple[str, ...],
    message: str,
    model: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(model)
    monkeypatch.setattr("sys.argv", ["ldm", *arguments])
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert end.value.code == 2
    assert message in capsys.readouterr().err
