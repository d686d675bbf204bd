"""Whatever comes into a node by a wire: a message of ours that names the input, or numbers that are numbers.

`tests/support/hosts/node_walk.py` gives every input of every node hostile values, as the pack declares them: a new node
or input is in here by itself, and new kinds of inputs too.
"""

import json
import os
import subprocess
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from class_models import write_class_file
from conditional_models import CONFIGS, write_conditional_folder
from text_models import write_text_folder
from vector_models import write_vector_file
from watched_host import __file__ as SUPPORT

from ldm_headless import PACK_ROOT, find_host

SECONDS = 5.0
LONGEST = 1500  # letters of a message
NODE_IDS = sorted(page.stem for page in (PACK_ROOT / "web" / "docs").glob("LDM*.md"))
NATIVE = [
    "CLIPTextEncode",
    "KSampler",
    "NOISE",
    "SamplerCustomAdvanced",
    "VAEDecode",
    "VAEDecodeTiled",
    "VAEEncode",
    "VAEEncodeTiled",
]
# What a message of memory or of the networks speaks of.
WORDS = {"latent_from": "latent", "latent_to": "latent", "inpainted": "image", "image": "image", "images": "image"}
WORDS |= {"mask": "pictures|image|mask", "positive": "conditioning|positive"}

Call = dict[str, Any]


@pytest.fixture(scope="module")
def calls(tmp_path_factory: pytest.TempPathFactory) -> list[Call]:
    """Every call of the walk; see `node_walk.call`."""
    location, folder = find_host(), tmp_path_factory.mktemp("walk")
    (folder / "output").mkdir()
    (folder / "models").mkdir()
    for task, config in CONFIGS.items():
        write_conditional_folder(folder / "models" / task, config)
    write_class_file(folder / "models" / "class-conditional.safetensors")
    write_vector_file(folder / "models" / "vector-conditional.safetensors")
    write_text_folder(folder / "models" / "text-conditional")
    script = Path(str(SUPPORT)).with_name("node_walk.py")
    command = [location.python, "-P", str(script), str(location.path), str(PACK_ROOT), str(folder / "output")]
    environment = os.environ | {"PYTHONPATH": str(script.parent), "PYTHONDONTWRITEBYTECODE": "1"}
    with (folder / "calls.jsonl").open("w") as calls, (folder / "errors.txt").open("w") as errors:
        done = subprocess.run(command, stdout=calls, stderr=errors, cwd=folder, env=environment, check=False)
    assert done.returncode == 0, (folder / "errors.txt").read_text()[-3000:]
    assert not list(folder.glob("*escaped*"))
    assert not list((folder / "output").rglob(".ldm-*")), "a partial file was left"
    return [json.loads(line) for line in (folder / "calls.jsonl").read_text().splitlines()]


def faults(call: Call) -> list[str]:
    """What is wrong with the end of a call."""
    message, done, node = call["message"], call["end"] == "done", call["node"]
    found = []
    ours = node in NODE_IDS or is_ours(Path(call.get("place", "").rpartition(":")[0]))
    if not done and not call["family"] and ours:
        found.append(f"{call['end']} at {call['place']}: {message[:300]}")
    if call["value"] == "good" and not done:
        found.append(f"a good value was refused: {message[:300]}")
    if call["seconds"] > SECONDS and ours:
        found.append(f"took {call['seconds']:.1f} s")
    if call["changed"]:
        found.append("wrote to what it was given")
    # The host's own sampler does not look at its numbers, and is not ours to change.
    if done and call["nan"] and node != "KSampler":
        found.append("NaN came out")
    if call["family"] and not (message.isprintable() and len(message) <= LONGEST):
        found.append(f"a message of {len(message)} letters, or with control characters")
    if call["family"] and node in NODE_IDS and not names(call):
        found.append(f"the message does not name the input: {message[:300]}")
    return found


def is_ours(file: Path) -> bool:
    """Whether a file is the pack's; the host may lie in a folder of it."""
    return file.is_relative_to(PACK_ROOT) and not file.is_relative_to(find_host().path)


def names(call: Call) -> bool:
    """Whether a message names the input; one of memory speaks of the pictures, one of the result of what was made."""
    name: str = call["input"]
    words = [name, *WORDS.get(name, name).split("|")]
    return any(word in call["message"].lower() for word in words) or call["end"] in ("TooLargeError", "SamplingError")


@pytest.mark.parametrize("node", [*NODE_IDS, *NATIVE])
def test_hostile_values(calls: list[Call], node: str) -> None:
    """Of every input, each a message of ours or a result."""
    own = [call for call in calls if call["node"] == node]
    assert own[0]["value"] == "good"
    assert [f"{call['input']}, {call['value']}: {fault}" for call in own for fault in faults(call)] == []


def test_the_walk_is_whole(calls: list[Call]) -> None:
    """Every node takes part, every value was refused somewhere or is legal, and most were refused."""
    assert {call["node"] for call in calls} == {*NODE_IDS, *NATIVE}
    ends = Counter(call["end"] for call in calls if call["node"] in NODE_IDS)
    assert sum(ends.values()) > 4000
    assert ends["InputError"] > 2500


SILENT = ["samples with one nan", "samples of nan", "samples with one inf", "samples of size 0 along 0",
          "samples in torch.int64", "samples in torch.complex64", "samples of rank 5",
          "samples nested by the host"]  # fmt: skip


@pytest.mark.parametrize("value", SILENT)
def test_what_no_node_may_take(calls: list[Call], value: str) -> None:
    """Also nodes that only count the latents."""
    own = [call for call in calls if call["value"] == value and call["node"] in NODE_IDS]
    assert len(own) >= 12
    assert {call["end"] for call in own} == {"InputError"}


def test_the_walk_notes_what_it_must(calls: list[Call]) -> None:
    """The checks above can fail."""
    good = next(call for call in calls if call["node"] == "LDMVQDecode" and call["value"] == "good")
    assert faults(good) == []
    assert faults(good | {"nan": True})
    assert faults(good | {"changed": True})
    assert faults(good | {"seconds": 6.0})
    assert faults(good | {"end": "TypeError", "place": "x"})
    assert faults(good | {"end": "InputError", "family": True, "input": "tile", "message": "no"})
