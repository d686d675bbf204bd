"""The private host and the client against the real ComfyUI, with core nodes only."""

import asyncio
import io
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from PIL import Image
from watched_host import host_program

from ldm_headless import (
    PACK_ROOT,
    AsyncComfyClient,
    ComfyClient,
    Event,
    HostLocation,
    ImageRef,
    PrivateHost,
    Queue,
    find_host,
    load_workflow,
)
from ldm_headless.errors import (
    ConnectionLostError,
    ExecutionError,
    HostError,
    PromptInterruptedError,
    PromptLostError,
    PromptRejectedError,
    WorkerLostError,
)
from ldm_headless.host.private_host import _free_port
from ldm_headless.run.private_host_worker import HostWorker
from ldm_headless.workflows.overrides import set_inputs
from ldm_headless.workflows.workflow import Prompt, to_prompt

RunPrompt = Callable[..., list[ImageRef]]


@pytest.fixture
def prompt(data: Path) -> Prompt:
    return to_prompt(load_workflow(data / "core_prompt.json"), {})


def slow_prompt(color: int, blurs: int = 60) -> Prompt:
    """A chain of blurs: half a second of work each, and the host looks for an interrupt before each node."""
    nodes: Prompt = {"0": {"class_type": "EmptyImage", "inputs": {"width": 512, "height": 512, "batch_size": 1}}}
    nodes["0"]["inputs"]["color"] = color
    for index in range(1, blurs + 1):
        inputs = {"image": [str(index - 1), 0], "blur_radius": 31, "sigma": 8.0}
        nodes[str(index)] = {"class_type": "ImageBlur", "inputs": inputs}
    nodes["save"] = {"class_type": "SaveImage", "inputs": {"images": [str(blurs), 0], "filename_prefix": "slow"}}
    return nodes


def at_node(node_id: str, action: Callable[[], Any]) -> Callable[[Event], None]:
    """An event handler that acts when a node starts."""

    def on_event(event: Event) -> None:
        if event.type == "executing" and event.data.get("node") == node_id:
            action()

    return on_event


def is_alive(pid: int) -> bool:
    state = Path(f"/proc/{pid}/stat")
    return state.exists() and state.read_text().rpartition(")")[2].split()[0] != "Z"


def test_the_image_is_fetched_as_saved_with_prompt_and_workflow(
    client: ComfyClient, run_prompt: RunPrompt, prompt: Prompt, host: PrivateHost
) -> None:
    ui_workflow = {"nodes": [], "links": [], "extra": {"mark": "carried"}}
    (ref,) = run_prompt(prompt, {"extra_pnginfo": {"workflow": ui_workflow}})
    data = client.fetch(ref)
    assert data == (host.base_directory / "output" / ref.filename).read_bytes()
    image = Image.open(io.BytesIO(data))
    assert image.size == (32, 16)
    assert image.getpixel((0, 0)) == (0x33, 0x66, 0xCC)
    assert '"mark": "carried"' in image.info["workflow"]
    assert '"EmptyImage"' in image.info["prompt"]


def test_a_cached_rerun_has_the_same_images(run_prompt: RunPrompt, client: ComfyClient, prompt: Prompt) -> None:
    first, second = run_prompt(prompt), run_prompt(prompt)
    assert [ref.node_id for ref in first] == [ref.node_id for ref in second] == ["2"]
    assert client.fetch(first[0]) == client.fetch(second[0])


def test_events_name_the_nodes_in_order(client: ComfyClient, prompt: Prompt) -> None:
    events: list[Event] = []
    prompt_id = client.submit(set_inputs(prompt, {"Picture.color": "77"}))
    client.follow(prompt_id, events.append)
    started = [event.data["node"] for event in events if event.type == "executing"]
    assert started == ["1", "2", None]


def test_prompts_can_be_followed_late_and_in_any_order(client: ComfyClient, prompt: Prompt) -> None:
    ids = [client.submit(set_inputs(prompt, {"1.color": str(color)})) for color in (1, 2, 3)]
    started = time.monotonic()
    for prompt_id in reversed(ids):
        client.follow(prompt_id)
    assert time.monotonic() - started < 5
    pixels = [Image.open(io.BytesIO(client.fetch(client.outputs(i)[0]))).getpixel((0, 0)) for i in ids]
    assert pixels == [(0, 0, 1), (0, 0, 2), (0, 0, 3)]


def test_a_bad_value_is_refused_with_node_and_input(client: ComfyClient, prompt: Prompt) -> None:
    with pytest.raises(PromptRejectedError) as caught:
        client.submit(set_inputs(prompt, {"1.width": "-5"}))
    (error,) = caught.value.node_errors
    assert (error.node_id, error.class_type, error.type) == ("1", "EmptyImage", "value_smaller_than_min")
    assert "width" in error.details


def test_an_unknown_node_is_refused_by_name(client: ComfyClient, prompt: Prompt) -> None:
    prompt["1"]["class_type"] = "NoSuchNode"
    with pytest.raises(PromptRejectedError, match="NoSuchNode"):
        client.submit(prompt)


def test_a_prompt_that_would_lose_an_output_is_refused_whole(client: ComfyClient, prompt: Prompt) -> None:
    prompt["3"] = {"class_type": "SaveImage", "inputs": {"filename_prefix": "lost"}}
    with pytest.raises(PromptRejectedError, match="required_input_missing"):
        client.submit(prompt)


def test_a_failing_node_is_named_and_the_next_prompt_works(run_prompt: RunPrompt, prompt: Prompt) -> None:
    with pytest.raises(ExecutionError, match="outside the output folder") as caught:
        run_prompt(set_inputs(prompt, {"Save.filename_prefix": "../../escape"}))
    assert (caught.value.node_id, caught.value.node_type) == ("2", "SaveImage")
    assert len(run_prompt(prompt)) == 1


def test_interrupt_stops_a_running_prompt(client: ComfyClient) -> None:
    prompt_id = client.submit(slow_prompt(1))
    with pytest.raises(PromptInterruptedError, match="interrupted at node"):
        client.follow(prompt_id, at_node("3", lambda: client.interrupt(prompt_id)))
    assert (client.queue(), client.queue_length()) == (Queue((), ()), 0)


def test_a_prompt_taken_out_of_the_queue_is_reported_lost(client: ComfyClient) -> None:
    running, waiting = client.submit(slow_prompt(2)), client.submit(slow_prompt(3))
    client.cancel(waiting)
    with pytest.raises(PromptLostError, match="removed from the queue"):
        client.follow(waiting)
    client.cancel(running)
    with pytest.raises(PromptInterruptedError):
        client.follow(running)


def test_a_cut_websocket_is_reopened(client: ComfyClient) -> None:
    prompt_id = client.submit(slow_prompt(4, blurs=8))
    seen: list[Event] = []

    def on_event(event: Event) -> None:
        seen.append(event)
        if event.type == "executing" and event.data.get("node") == "3":
            connection = client._client._socket._connection
            assert connection is not None
            connection.transport.get_extra_info("socket").shutdown(socket.SHUT_RDWR)

    client.follow(prompt_id, on_event)
    assert len(client.outputs(prompt_id)) == 1
    assert seen[-1].data.get("node", "missing") is None


def test_prompts_are_followed_side_by_side(host: PrivateHost, prompt: Prompt) -> None:
    async def run(client: AsyncComfyClient, color: int) -> tuple[object, list[object]]:
        events: list[Event] = []
        prompt_id = await client.submit(set_inputs(prompt, {"1.color": str(color)}))
        await client.follow(prompt_id, events.append)
        image = Image.open(io.BytesIO(await client.fetch((await client.outputs(prompt_id))[0])))
        assert {event.prompt_id for event in events} == {prompt_id}
        return image.getpixel((0, 0)), [event.data["node"] for event in events if event.type == "executing"]

    async def run_all() -> list[tuple[object, list[object]]]:
        async with AsyncComfyClient(host.url) as client:
            return await asyncio.gather(*(run(client, color) for color in (11, 12, 13)))

    assert asyncio.run(run_all()) == [((0, 0, color), ["1", "2", None]) for color in (11, 12, 13)]


def test_a_prompt_id_of_ours_is_kept_and_known(client: ComfyClient, prompt: Prompt) -> None:
    ours, never_submitted = str(uuid.uuid4()), str(uuid.uuid4())  # newer hosts take nothing else
    assert not client.knows(never_submitted)
    assert client.submit(prompt, prompt_id=ours) == ours
    client.follow(ours)
    assert client.knows(ours)


def test_the_models_of_the_checkout_are_seen(tmp_path: Path) -> None:
    checkout = tmp_path / "checkout"
    (checkout / "models" / "ldm").mkdir(parents=True)
    for path in find_host().path.iterdir():
        if path.name != "models":
            (checkout / path.name).symlink_to(path)
    (checkout / "models" / "ldm" / "mine").symlink_to(PACK_ROOT / "demo" / "portraits-128")
    location = HostLocation(checkout, find_host().python)
    with PrivateHost(location, {"comfyui-ldm": PACK_ROOT}) as host, ComfyClient(host.url) as client:
        (_, options) = client.object_info()["LDMCheckpointLoader"]["input"]["required"]["checkpoint"]
    assert options["options"] == ["mine", "portraits-128", "upscaler-4x", "inpainter-128", "text-portraits-128"]
    assert [path.name for path in (checkout / "models").rglob("*")] == ["ldm", "mine"]


ODD = "😀 é '\"%s $HOME ${HOME} ~ #a: &b !c [d] {e} \\ *"


def copy_of_host(checkout: Path) -> HostLocation:
    """A whole copy: links would be followed to where the right path is."""
    host = find_host().path

    def ignored(folder: str, names: list[str]) -> set[str]:
        mine = {"models", "output", "input", "temp", "user"} if Path(folder) == host else set[str]()
        return {*mine, ".git", "__pycache__"} & {*names}

    shutil.copytree(host, checkout, ignore=ignored)
    return HostLocation(checkout, find_host().python)


def test_a_host_below_an_odd_path_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """That of the checkout, with its models, and that of the temporary folder. Two folders are called as settings."""
    location = copy_of_host(tmp_path / ODD / "checkout")
    for kind in ("ldm", "base_path", "is_default", ODD.replace("/", "")):
        (location.path / "models" / kind).mkdir(parents=True)
    (location.path / "models" / "ldm" / "mine").symlink_to(PACK_ROOT / "demo" / "portraits-128")
    (tmp_path / f"tmp {ODD}").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / f"tmp {ODD}"))
    prompt = to_prompt(load_workflow(PACK_ROOT / "workflows" / "api" / "demo.json"), {})
    prompt = set_inputs(prompt, {"1.checkpoint": "mine", "3.steps": "1"})
    with PrivateHost(location, {"comfyui-ldm": PACK_ROOT}) as host, ComfyClient(host.url) as client:
        assert ODD in str(host.base_directory)
        prompt_id = client.submit(prompt)
        client.follow(prompt_id)
        (picture,) = client.outputs(prompt_id)
        assert client.fetch(picture).startswith(b"\x89PNG")
    assert list((tmp_path / f"tmp {ODD}").iterdir()) == []


@pytest.mark.parametrize("name", ["a\nb", "a\r\nb", os.fsdecode(b"\xff")])
def test_a_path_that_no_host_gets_on_with_is_refused_before_anything_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    (tmp_path / name).mkdir()
    monkeypatch.setattr(subprocess, "Popen", lambda *more, **options: pytest.fail("started"))
    with pytest.raises(HostError, match="line break or bytes that are no UTF-8 text; move ComfyUI elsewhere") as caught:
        PrivateHost(HostLocation(tmp_path / name, sys.executable)).start()
    assert str(caught.value).isprintable()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / name))
    with pytest.raises(HostError, match="set TMPDIR to another folder"):
        PrivateHost(find_host()).start()


def test_a_page_of_another_origin_is_refused(host: PrivateHost, prompt: Prompt) -> None:
    """By ComfyUI itself. That it cannot tell a page whose name was made to lead here is said in SECURITY.md."""
    for origin in ("http://example.com", f"http://example.com:{urlsplit(host.url).port}", "http://127.0.0.1:1"):
        answer = httpx.post(f"{host.url}/prompt", json={"prompt": prompt}, headers={"Origin": origin})
        assert answer.status_code == 403
    assert httpx.get(f"{host.url}/queue", headers={"Origin": host.url}).status_code == 200


def test_the_port_is_drawn_for_each_host() -> None:
    assert len({_free_port() for _ in range(10)}) > 1


def test_it_listens_on_loopback_only(host: PrivateHost) -> None:
    port = urlsplit(host.url).port
    listening = []
    for table in ("tcp", "tcp6"):
        rows = [line.split() for line in Path("/proc/net", table).read_text().splitlines()[1:]]
        listening += [row[1] for row in rows if row[3] == "0A" and int(row[1].rpartition(":")[2], 16) == port]
    assert listening == [f"0100007F:{port:04X}"]


def test_only_our_pack_is_loaded_and_the_base_directory_is_used(host: PrivateHost, client: ComfyClient) -> None:
    modules = {info["python_module"] for info in client.object_info().values()}
    assert {name for name in modules if name.startswith("custom_nodes")} == {"custom_nodes.comfyui-ldm"}
    assert not any(name.startswith("comfy_api_nodes") for name in modules)
    assert (host.base_directory / "custom_nodes" / "comfyui-ldm").resolve() == PACK_ROOT


def test_a_host_that_refuses_its_arguments_says_so() -> None:
    started = time.monotonic()
    with pytest.raises(HostError, match="unrecognized arguments: --no-such-flag"):
        PrivateHost(find_host(), arguments=["--no-such-flag"]).__enter__()
    assert time.monotonic() - started < 60


def test_an_interpreter_that_does_not_exist_is_named() -> None:
    with pytest.raises(HostError, match="COMFYUI_PYTHON"):
        PrivateHost(HostLocation(find_host().path, "/no/such/python"), cpu=True).__enter__()


def test_a_missing_node_fails_the_start_and_leaves_nothing_behind() -> None:
    host = PrivateHost(find_host(), required_nodes=["NoSuchNode"])
    with pytest.raises(HostError, match=r"lacks the nodes NoSuchNode[\s\S]*Starting server"), host:
        pass
    assert not host.base_directory.exists()


def test_a_host_that_dies_while_a_prompt_runs_is_a_lost_connection() -> None:
    with PrivateHost(find_host()) as host, ComfyClient(host.url) as client:
        prompt_id = client.submit(slow_prompt(5))
        with pytest.raises(ConnectionLostError, match=prompt_id):
            client.follow(prompt_id, at_node("3", lambda: os.kill(host.pid, signal.SIGKILL)))


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ties a child to its parent's life")
def test_the_host_does_not_outlive_a_killed_parent() -> None:
    script = (
        "from ldm_headless import PrivateHost, find_host\nimport time\n"
        "host = PrivateHost(find_host())\nhost.start()\n"
        "print(host.pid, host.base_directory, flush=True)\ntime.sleep(99)"
    )
    with subprocess.Popen([sys.executable, "-P", "-c", script], stdout=subprocess.PIPE, text=True) as parent:
        watchdog = threading.Timer(120, parent.kill)
        watchdog.start()
        assert parent.stdout is not None
        pid, _, base_directory = parent.stdout.readline().strip().partition(" ")
        assert is_alive(int(pid))
        parent.kill()
        watchdog.cancel()
    deadline = time.monotonic() + 15
    while is_alive(int(pid)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not is_alive(int(pid))
    subprocess.run(["rm", "-rf", base_directory], check=True)  # noqa: S607 - what the killed parent could not remove


@pytest.mark.parametrize(("script", "error"), [("kill -KILL $$", WorkerLostError), ("exit 3", HostError)])
def test_a_worker_whose_host_is_killed_during_its_start_is_lost(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, script: str, error: type[Exception]
) -> None:
    """Another one takes its place. One whose host cannot start ends the run: another one's would not start either."""
    monkeypatch.setenv("COMFYUI_PYTHON", str(host_program(tmp_path / "python", script)))
    with pytest.raises(error, match="died during its start with exit code"):
        HostWorker(1, {}).start()
