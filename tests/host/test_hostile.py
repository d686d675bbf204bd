"""Prompts that no editor writes: the host answers each, nodes of this pack with their own message, and goes on.

`LDM_HOSTILE=2000` tries so many random ones; they are the same in every run.
"""

import json
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from hostile import Nodes, changed_prompts, made_up_prompts, would_stop_the_host
from hypothesis import HealthCheck, Phase, assume, given, settings
from hypothesis import strategies as st
from prompts import cycle
from prompts.parts import Prompt, portrait
from watched_host import Watched, watched_host

from ldm_headless import find_host

EXAMPLES = int(os.environ.get("LDM_HOSTILE", "60"))
REFUSAL_S = 1.0
PATIENCE_S = 2.0  # then it is cancelled
CANCEL_S = 60.0
EVERY = 10  # examples between two good prompts
OURS = "custom_nodes/comfyui-ldm/"
ENDS = ("execution_success", "execution_error", "execution_interrupted")
# Last line of a traceback of our making; an out of memory under the test's own limit is no mistake in the code.
MESSAGE = re.compile(r"\.errors\.\w+Error")


class Target:
    """A host that is attacked, and what has come of it."""

    def __init__(self, watched: Watched, http: httpx.Client) -> None:
        self.watched, self.http, self.tried = watched, http, 0
        self.nodes = Nodes(http.get("/object_info").json())

    def submit(self, body: bytes) -> tuple[httpx.Response, float]:
        start = time.perf_counter()
        response = self.http.post("/prompt", content=body, headers={"Content-Type": "application/json"})
        return response, time.perf_counter() - start

    def run(self, prompt: Any) -> list[dict[str, Any]]:
        """The errors of a prompt, of validation or of a node; none if it ran, or was cancelled as too long."""
        body = json.dumps({"prompt": prompt}).encode()
        response, seconds = self.submit(body)
        if response.status_code != 200:
            assert response.status_code in (400, 500), response.text
            if seconds > REFUSAL_S:  # another program may have had the processor
                seconds = self.submit(body)[1]
            assert seconds < REFUSAL_S
            return [{"validation": response.text}]
        answer = response.json()
        # What does not pass is left out, and the rest runs: newer hosts do so with a choice that is none, too.
        left_out = [{"validation": json.dumps(errors)} for errors in answer["node_errors"].values()]
        return left_out + self.end_of(answer["prompt_id"])

    def end_of(self, prompt_id: str) -> list[dict[str, Any]]:
        start, cancelled = time.monotonic(), False
        while (entry := self.http.get(f"/history/{prompt_id}").json().get(prompt_id)) is None:
            waited = time.monotonic() - start
            if waited > PATIENCE_S and not cancelled:
                self.http.post("/interrupt", json={"prompt_id": prompt_id})
                cancelled = True
            assert waited < PATIENCE_S + CANCEL_S, f"neither an end nor an answer to the cancel:\n{self.log_tail()}"
            time.sleep(0.01)
        messages = entry["status"]["messages"]
        assert len([kind for kind, _ in messages if kind in ENDS]) == 1
        return [data for kind, data in messages if kind == "execution_error"]

    def good_prompt_works(self) -> None:
        self.tried += 1
        assert self.run(portrait(10_000 + self.tried)) == []

    def log_tail(self) -> str:
        return self.watched.host.log_tail()


def blame(error: dict[str, Any]) -> str:
    """Whose mistake it is: "" for a message of ours and for whatever other packs and the host raise, else where."""
    frames = [re.search(r'File "([^"]+)", line (\d+)', line) for line in error.get("traceback", [])]
    places = [match.groups() for match in frames if match is not None]
    # Libraries raise on behalf of whoever called them.
    callers = [(file, line) for file, line in places if "/lib/python3" not in file and not file.startswith("<")]
    if not callers or OURS not in callers[-1][0]:
        return ""
    if MESSAGE.search(error["exception_type"]) or "allocate" in error["exception_message"]:
        return ""
    return f"{callers[-1][0]}:{callers[-1][1]} {error['exception_type']}: {error['exception_message']}"


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    """Of bounded memory, so that a mistake here cannot take the machine's."""
    folder = tmp_path_factory.mktemp("hostile")
    with (
        watched_host(folder, "ulimit -v 16000000") as watched,
        httpx.Client(base_url=watched.host.url, trust_env=False, timeout=90) as http,
    ):
        made = Target(watched, http)
        os.truncate(watched.log, 0)  # what the host does at its start, and to describe its nodes, is not in question
        yield made


@settings(
    max_examples=EXAMPLES, derandomize=True, deadline=None, database=None, phases=[Phase.generate],
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
)  # fmt: skip
@given(data=st.data())
def test_random_prompts(target: Target, data: st.DataObject) -> None:
    prompt = data.draw(changed_prompts(target.nodes) | made_up_prompts(target.nodes))
    assume(not would_stop_the_host(prompt, target.nodes))
    for error in target.run(prompt):
        assert blame(error) == "", json.dumps(prompt)
    target.tried += 1
    if target.tried % EVERY == 0:
        target.good_prompt_works()


# Newer hosts first look for nodes that were renamed, in whatever the prompt is.
NO_DICT = 500 if (find_host().path / "app" / "node_replace_manager.py").is_file() else 400
RAW: list[tuple[bytes, int]] = [
    (b"", 500),
    (b"\xff\xfe", 500),
    (b"[]", 400),
    (b"{}", 400),
    (b'{"prompt": null}', 500),
    (b'{"prompt": []}', NO_DICT),
    (b'{"prompt": {}}', 400),
    (b'{"prompt": {"1": 5}}', 500),
    (b'{"prompt": {"1": {}}}', 400),
    (b'{"prompt": {"1": {"class_type": ["LDMModelInfo"]}}}', 500),
    (b'{"prompt": {"1": {"class_type": "LDMModelInfo"}}}', 400),
    (b'{"prompt": {"1": {"class_type": "LDMModelInfo", "inputs": []}}}', NO_DICT),
    (b'{"prompt": {"1": {"class_type": "LDMModelInfo", "inputs": {"model": ["1", 0]}}}}', 400),
    (b'{"prompt": {"1": {"class_type": "LDMModelInfo", "inputs": {"model": ["2", 0]}}}}', 400),
    (b'{"prompt": {"1": {"class_type": "LDMModelInfo", "inputs": {"model": [{}, 0]}}}}', 400),
]


@pytest.mark.parametrize(("body", "status"), RAW)
def test_what_is_no_prompt_is_answered(target: Target, body: bytes, status: int) -> None:
    response, seconds = target.submit(body)
    assert response.status_code == status, response.text
    assert seconds < REFUSAL_S
    target.good_prompt_works()


def wires() -> list[tuple[str, str, str]]:
    """(node type, input, word of its message) for every wire of the nodes that run with the demo.

    Of all nodes, with models of every task: `pack/test_node_doors.py`.
    """
    words = {"model": "MODEL", "vae": "VAE", "image": "IMAGE", "images": "IMAGE", "inpainted": "IMAGE", "mask": "MASK"}
    words["guides"] = "LDM_GUIDES"
    found = {
        (node["class_type"], name, words.get(name, "LATENT"))
        for case in cycle(0)
        if case.end == "done"
        for node in case.prompt.values()
        for name, value in node["inputs"].items()
        if node["class_type"].startswith("LDM") and isinstance(value, list)
    }
    optional = {("LDMLatentNoise", "model", "MODEL"), ("LDMEmptyLatent", "model", "MODEL")}  # null is nothing there
    optional |= {("LDMContactSheet", "latent", "LATENT")}
    optional |= {wire for wire in found if wire[1] == "guides" and wire[0] != "LDMGuided"}
    optional |= {wire for wire in found if wire[1] in ("positive", "negative")}
    return sorted(found - optional)


@pytest.mark.parametrize(("class_type", "name", "word"), wires())
def test_a_value_in_place_of_a_wire_is_named(target: Target, class_type: str, name: str, word: str) -> None:
    prompts = [case.prompt for case in cycle(60) if case.end == "done"]
    prompt = next(prompt for prompt in prompts if any(node["class_type"] == class_type for node in prompt.values()))
    node = next(node for node in prompt.values() if node["class_type"] == class_type)
    link = node["inputs"][name]
    for value in (None, 5, "latent", {"samples": [[1.0]]}):
        node["inputs"][name] = value
        (error,) = target.run(prompt)
        assert error["node_type"] == class_type
        assert MESSAGE.search(error["exception_type"]), error
        assert word in error["exception_message"]
    node["inputs"][name] = link
    assert target.run(prompt) == []


@pytest.mark.parametrize("class_type", ["VAEDecode", "VAEDecodeTiled"])
def test_a_native_decoder_with_no_latent_is_answered(target: Target, class_type: str) -> None:
    """It hands the VAE whatever it was given."""
    tiles = {"tile_size": 64, "overlap": 0, "temporal_size": 64, "temporal_overlap": 8} if "Tiled" in class_type else {}
    prompt = Prompt()
    prompt.save(prompt.add(class_type, samples={"samples": "x"}, vae=prompt.loader()(1), **tiles)(0))
    (error,) = target.run(prompt)
    assert blame(error) == ""


CHOICES = [("LDMCheckpointLoader", name) for name in ("weights", "config", "precision", "vae_precision")]
CHOICES += [("LDMDDIMSampler", "grid"), ("LDMSampler", "sampler"), ("LDMSampler", "grid"), ("LDMSeedWalk", "path")]
CHOICES += [("LDMGuideLowResolution", "filter"), ("LDMGuideGreyPicture", "codec"), ("LDMGuideColour", "aim")]
CHOICES += [
    ("LDMGuideColour", "method"),
    ("LDMCheckpointSave", "dtype"),
    ("LDMSamplerSelect", "sampler"),
    ("LDMImageToImage", "sampler"),
]


@pytest.mark.parametrize(("class_type", "name"), CHOICES)
def test_a_choice_of_any_type_is_answered(target: Target, class_type: str, name: str) -> None:
    """Hosts of 0.3 do not check a V3 choice themselves."""
    prompts = [case.prompt for case in cycle(61) if case.end == "done"]
    prompt = next(prompt for prompt in prompts if any(node["class_type"] == class_type for node in prompt.values()))
    node = next(node for node in prompt.values() if node["class_type"] == class_type)
    for value in (None, 5, {}, {"__value__": [1, 2, 3]}, "x" * 10_000):
        node["inputs"][name] = value
        (error,) = target.run(prompt)
        assert error.get("validation") or MESSAGE.search(error["exception_type"]), error
        assert len(error.get("exception_message", "")) < 1000


@pytest.mark.parametrize("name", ["eta", "strength"])
def test_nan_is_refused(target: Target, name: str) -> None:
    """The host's own comparison with the least and the most lets it pass."""
    for case in cycle(62):
        nodes = [node for node in case.prompt.values() if node["class_type"].startswith("LDM")]
        users = [node for node in nodes if name in node["inputs"]] if case.end == "done" else []
        if users:
            users[0]["inputs"][name] = float("nan")
            (error,) = target.run(case.prompt)
            assert MESSAGE.search(error["exception_type"]), error
            assert "nan" in error["exception_message"]


@pytest.mark.parametrize("prefix", ["a\0b", "a\nb", "\ud800", "x" * 300, "../../escaped", "/escaped", "/"])
@pytest.mark.parametrize("class_type", ["LDMSaveImage", "LDMCheckpointSave"])
def test_a_prefix_that_is_no_name_is_refused(target: Target, class_type: str, prefix: str) -> None:
    prompts = [case.prompt for case in cycle(63) if case.end == "done"]
    prompt = next(prompt for prompt in prompts if any(node["class_type"] == class_type for node in prompt.values()))
    next(node for node in prompt.values() if node["class_type"] == class_type)["inputs"]["filename_prefix"] = prefix
    (error,) = target.run(prompt)
    assert error["node_type"] == class_type
    assert blame(error) == ""
    assert re.search("filename_prefix|cannot be written|outside the output folder", error["exception_message"])


def test_afterwards_all_is_well(target: Target) -> None:
    """Runs last: a good prompt works, no traceback in the log ends in our files without a message of ours, and nothing
    was written, asked or started elsewhere."""
    target.good_prompt_works()
    for block in target.watched.host.log().split("Traceback (most recent call last):")[1:]:
        if "The above exception was the direct cause" in block:
            continue  # the message of ours follows
        lines = block.splitlines()
        files = [line.split('"')[1] for line in lines if line.startswith('  File "') and "/lib/python3" not in line]
        last = next((line for line in lines[1:] if re.match(r"\S+(Error|Exception)\b", line)), "")
        assert not (files and OURS in files[-1]) or MESSAGE.search(last) or "allocate" in last, block
    base = target.watched.host.base_directory
    assert target.watched.acts("write"), "the watch does not work"
    assert target.watched.written_outside(base / "output", base / "temp") == set()
    assert target.watched.addresses_elsewhere() == []
    assert target.watched.acts("process") == []
    assert not [path for place in (base, base.parent, Path("/")) for path in place.glob("*escaped*")]
