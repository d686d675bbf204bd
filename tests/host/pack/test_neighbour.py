"""What others in the same ComfyUI notice of this pack: nothing in the settings they share, memory that comes back."""

import json
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pack_copy import copy_of_the_pack
from prompts import cycle
from prompts.parts import noise_pictures, portrait
from resident import MIB, resident

from ldm_headless import PACK_ROOT, ComfyClient, PrivateHost, find_host

FOREIGN = Path(__file__).parent / "foreign_pack"
# They set the global generator or draw from it, as samplers of the host do for all models.
HOST_SAMPLERS = {"KSampler", "SamplerCustomAdvanced"}

# Imports a copy of the pack whole, and then with each of its node files broken in turn; prints which nodes there were.
BREAK_EACH = """
import asyncio, importlib.util, json, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
sys.dont_write_bytecode = True  # a file that is broken and mended within a second would be read from its cache
from comfy.cli_args import args; args.cpu = True
root = Path(sys.argv[2])

def nodes_of_the_pack():
    for name in [name for name in sys.modules if name.partition('.')[0] == 'pack']:
        del sys.modules[name]
    spec = importlib.util.spec_from_file_location('pack', root / '__init__.py', submodule_search_locations=[str(root)])
    pack = importlib.util.module_from_spec(spec); sys.modules['pack'] = pack; spec.loader.exec_module(pack)

    async def listed():
        return [node.__name__ for node in await (await pack.comfy_entrypoint()).get_node_list()]

    return asyncio.run(listed())

whole = nodes_of_the_pack()
files, left = sys.modules['pack.nodes'].NODES, {}
for name in files:
    file = root.joinpath('nodes', *name.split('.')).with_suffix('.py')
    text = file.read_text(encoding='utf-8')
    file.write_text(text + '\\nraise ImportError("broken on purpose")\\n', encoding='utf-8')
    left[name] = nodes_of_the_pack()
    file.write_text(text, encoding='utf-8')
print(json.dumps({'whole': whole, 'files': files, 'left': left}))
"""


@pytest.fixture(scope="module")
def shared_host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrivateHost]:
    packs = {"comfyui-ldm": PACK_ROOT, "foreign": FOREIGN}
    with PrivateHost(find_host(), packs, tmp_path_factory.mktemp("shared")) as running:
        yield running


def process_state(host: PrivateHost) -> dict[str, Any]:
    with ComfyClient(host.url) as client:
        prompt_id = client.submit({"1": {"class_type": "TestProcessState", "inputs": {}}})
        client.follow(prompt_id)
        entry = client.history(prompt_id)
    assert entry is not None
    return json.loads(entry["outputs"]["1"]["text"][0])


def test_working_changes_no_setting_that_others_share(shared_host: PrivateHost) -> None:
    """Flags of torch, threads, generators, environment, import path, logging, warnings: before and after every node."""
    before = process_state(shared_host)
    used: set[str] = set()
    with ComfyClient(shared_host.url) as client:
        for case in cycle(70):
            types = {node["class_type"] for node in case.prompt.values()}
            if case.end == "done" and not types & HOST_SAMPLERS:
                client.follow(client.submit(case.prompt))
                used |= types
    assert len({name for name in used if name.startswith("LDM")}) >= 18
    after = process_state(shared_host)
    assert after.pop("asked") > before.pop("asked")  # looked at anew
    assert after == before


def test_loading_changes_no_setting_that_others_share(shared_host: PrivateHost, tmp_path: Path) -> None:
    """Beside a host that never saw the pack."""
    with PrivateHost(find_host(), {"foreign": FOREIGN}, tmp_path / "base") as alone:
        with ComfyClient(alone.url) as client:
            assert not [name for name in client.object_info() if name.startswith("LDM")]
        expected = json.dumps(process_state(alone)).replace(str(alone.base_directory), "BASE")
    found = json.dumps(process_state(shared_host)).replace(str(shared_host.base_directory), "BASE")
    states = [json.loads(text) for text in (found, expected)]
    for state in states:
        del state["random"], state["asked"]  # numpy and random start differently in every process
        state["python"]["environment"].pop("PYTEST_CURRENT_TEST", None)  # of when the host was started
    assert states[0] == states[1]


def on_cards(client: ComfyClient) -> int:
    """Bytes that the host holds on cards; 0 where it computes on the CPU."""
    devices = client.system_stats()["devices"]
    return sum(device["torch_vram_total"] for device in devices if device["type"] != "cpu")


def test_free_gives_the_memory_back(shared_host: PrivateHost) -> None:
    """Idle after a small prompt, then a large one, then `/free`: within 10 % of idle again, on a card too."""
    pid = shared_host.pid
    with ComfyClient(shared_host.url) as client:
        client.follow(client.submit(portrait(1)))
        client.free()
        time.sleep(3)  # the host does it after its answer
        idle, idle_on_cards = resident(pid), on_cards(client)
        client.follow(client.submit(noise_pictures(1, batch=24, side=256, prefix="large")))
        taken = max(resident(pid, "VmHWM") - idle, on_cards(client) - idle_on_cards)
        assert taken > 100 * MIB, "the prompt was not large"
        client.free()

        def is_idle() -> bool:
            return resident(pid) < 1.1 * idle and on_cards(client) <= 1.1 * idle_on_cards

        deadline = time.monotonic() + 30
        while not is_idle() and time.monotonic() < deadline:
            time.sleep(0.5)
        assert is_idle()


def test_a_part_that_cannot_be_loaded_takes_no_other_along(tmp_path: Path) -> None:
    """One file of nodes raises at import: its nodes are missing, the log says so once, the rest works."""
    pack = copy_of_the_pack(tmp_path / "pack")
    views = pack / "nodes" / "views.py"
    views.write_text(views.read_text() + '\nraise ImportError("broken on purpose")\n')
    with PrivateHost(find_host(), {"comfyui-ldm": pack}, tmp_path / "base") as host, ComfyClient(host.url) as client:
        found = {name for name in client.object_info() if name.startswith("LDM")}
        client.follow(client.submit(portrait(2)))
        log = host.log()
    assert len(found) == 39
    assert not found & {"LDMContactSheet", "LDMCodeView"}
    assert log.count("nodes/views.py could not be loaded") == 1
    assert "these nodes are missing: LDMContactSheet, LDMCodeView" in log
    assert log.count("ImportError: broken on purpose") == 1


def test_each_file_of_nodes_stands_alone(tmp_path: Path) -> None:
    """Whichever of them raises at import, its own nodes are missing and no others."""
    location = find_host()
    command = [location.python, "-P", "-c", BREAK_EACH, str(location.path), str(copy_of_the_pack(tmp_path / "pack"))]
    done = subprocess.run(command, capture_output=True, text=True, cwd=location.path, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    whole, files = found["whole"], found["files"]
    assert whole == [name for own in files.values() for name in own]
    for file, own in files.items():
        assert found["left"][file] == [name for name in whole if name not in own], file
