"""Full and read-only disks, a clock that jumps, several clients and hosts at once: what is saved is saved whole."""

import json
import os
import resource
import shutil
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from PIL import Image
from prompts.parts import Prompt, noise_pictures, portrait
from watched_host import host_program

from ldm_headless import PACK_ROOT, ComfyClient, Event, HostLocation, PrivateHost, find_host
from ldm_headless.errors import ExecutionError

PACKS = {"comfyui-ldm": PACK_ROOT}
YEAR = 365 * 24 * 3600
linux = pytest.mark.skipif(sys.platform != "linux", reason="limits and clocks of Linux")


def pictures(folder: Path) -> dict[str, int]:
    """Name -> seed of every PNG, each of which opens whole; nothing else lies there."""
    seeds = {}
    for file in sorted(folder.rglob("*")):
        if file.is_file():
            assert file.suffix == ".png", file
            with Image.open(file) as image:
                image.load()
                seeds[file.name] = json.loads(image.info["ldm"])["seed"]
    return seeds


def run(host: PrivateHost, prompt: Prompt, on_event: Callable[[Event], None] | None = None) -> str:
    with ComfyClient(host.url) as client:
        prompt_id = client.submit(prompt)
        client.follow(prompt_id, on_event)
    return prompt_id


def fails(host: PrivateHost, prompt: Prompt) -> str:
    """The message of a prompt whose saver fails."""
    with pytest.raises(ExecutionError) as caught:
        run(host, prompt)
    assert caught.value.node_type in ("LDMSaveImage", "LDMCheckpointSave")
    assert caught.value.exception_type.startswith("ldm_backend.errors.")
    return caught.value.exception_message


def checkpoint(name: str) -> Prompt:
    prompt = Prompt()
    loader = prompt.loader()
    prompt.add("LDMCheckpointSave", model=loader(0), vae=loader(1), filename_prefix=name, dtype="fp32")
    return prompt


class Disk:
    """A small file system of its own, if this machine lets us mount one."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def mount(self, options: str) -> bool:
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(self.folder)]
        return shutil.which("mount") is not None and subprocess.run(command, capture_output=True).returncode == 0

    def unmount(self) -> None:
        subprocess.run(["umount", "-l", str(self.folder)], check=True)  # noqa: S607

    def clear(self) -> None:
        for path in self.folder.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Disk]:
    small = Disk(tmp_path_factory.mktemp("small"))
    if not small.mount("size=300k"):
        pytest.skip("mounting a small file system needs root")
    yield small
    small.unmount()


@pytest.fixture(scope="module")
def host_on_disk(disk: Disk, tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrivateHost]:
    arguments = ["--output-directory", str(disk.folder)]
    with PrivateHost(find_host(), PACKS, tmp_path_factory.mktemp("base"), arguments=arguments) as running:
        yield running


def test_a_full_disk_leaves_whole_pictures_and_says_so(host_on_disk: PrivateHost, disk: Disk) -> None:
    message = fails(host_on_disk, noise_pictures(1, batch=8, side=256, prefix="full"))
    assert "cannot be written (No space left on device)" in message
    assert "Free some space" in message
    saved = pictures(disk.folder)
    assert 0 < len(saved) < 8
    assert list(saved.values()) == list(range(1, 1 + len(saved)))

    message = fails(host_on_disk, checkpoint("full"))
    assert "No space left on device" in message
    assert pictures(disk.folder) == saved  # no half-written file, no temporary one

    disk.clear()
    run(host_on_disk, noise_pictures(50, batch=1, side=64, prefix="free"))
    assert pictures(disk.folder) == {"free_00001_.png": 50}


def test_a_read_only_output_folder_is_named(host_on_disk: PrivateHost, disk: Disk) -> None:
    disk.clear()
    assert disk.mount("size=300k,remount,ro")
    try:
        for prefix in ("readonly", "folder/readonly"):
            message = fails(host_on_disk, noise_pictures(2, batch=1, side=64, prefix=prefix))
            assert "cannot be written (Read-only file system)" in message
            assert "choose another name or folder" in message
        assert "Read-only file system" in fails(host_on_disk, checkpoint("readonly"))
    finally:
        assert disk.mount("size=300k,remount,rw")
    run(host_on_disk, noise_pictures(3, batch=1, side=64, prefix="again"))
    assert pictures(disk.folder) == {"again_00001_.png": 3}


@linux
def test_a_write_that_breaks_off_leaves_no_file(host: PrivateHost) -> None:
    """A limit on the size of a file, as quotas set it; the checkpoint is far larger, and fails in the middle."""
    output = host.base_directory / "output" / "quota"
    before = resource.prlimit(host.pid, resource.RLIMIT_FSIZE)
    limit = host.log_path.stat().st_size + 2_000_000  # the log is one of its files
    resource.prlimit(host.pid, resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        message = fails(host, checkpoint("quota/model"))
    finally:
        resource.prlimit(host.pid, resource.RLIMIT_FSIZE, before)
    assert "quota/model_00001_.safetensors: cannot be written" in message
    assert "File too large" in message
    assert list(output.iterdir()) == []
    run(host, noise_pictures(5, batch=1, side=64, prefix="quota/picture"))
    assert pictures(output) == {"picture_00001_.png": 5}


def test_a_file_in_place_of_a_folder_is_named(host: PrivateHost) -> None:
    run(host, noise_pictures(6, batch=1, side=64, prefix="place/picture"))
    message = fails(host, noise_pictures(7, batch=1, side=64, prefix="place/picture_00001_.png/picture"))
    assert "filename_prefix place/picture_00001_.png/picture: cannot be written (Not a directory)" in message


@pytest.fixture(scope="module")
def clock(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[PrivateHost, Callable[[int], None]]]:
    """A host whose wall clock is set by a file, below Python, and what sets it: seconds away from the true time."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if sys.platform != "linux" or compiler is None:
        pytest.skip("shifting the clock of one program needs Linux and a C compiler")
    folder = tmp_path_factory.mktemp("clock")
    shim, offset = folder / "clock.so", folder / "offset"
    source = PACK_ROOT / "tests" / "support" / "hosts" / "clock_shim.c"
    subprocess.run([compiler, "-shared", "-fPIC", "-o", str(shim), str(source), "-ldl"], check=True)

    def shift(seconds: int) -> None:
        with offset.open("r+b" if offset.exists() else "wb") as file:
            file.write(struct.pack("=q", seconds))

    shift(0)
    location = find_host()
    python = host_program(
        folder / "python", f"LD_PRELOAD='{shim}' CLOCK_OFFSET='{offset}' exec '{location.python}' \"$@\""
    )
    with PrivateHost(HostLocation(location.path, str(python)), PACKS, folder / "base") as running:
        yield running, shift


def test_a_clock_that_jumps_changes_nothing(clock: tuple[PrivateHost, Callable[[int], None]]) -> None:
    """Set back ten years and ahead ten in the middle of a prompt: the same picture, the next number, no complaint."""
    host, shift = clock
    jumps = iter([-10 * YEAR, 10 * YEAR, -10 * YEAR])

    def jump(event: Event) -> None:
        if event.type == "progress" and (seconds := next(jumps, None)) is not None:
            shift(seconds)

    try:
        run(host, portrait(8, steps=20, prefix="clock/picture"))
        noted = run(host, portrait(9, steps=20, prefix="clock/picture"), jump)
        shift(0)
        run(host, portrait(9, steps=21, prefix="clock/other"))  # so that the next one is computed, not remembered
        run(host, portrait(9, steps=20, prefix="clock/picture"))
    finally:
        shift(0)
    output = host.base_directory / "output" / "clock"
    assert list(pictures(output).values()) == [9, 8, 9, 9]
    images = [Image.open(output / f"picture_{number:05}_.png").tobytes() for number in (1, 2, 3)]
    assert images[1] == images[2] != images[0]
    with ComfyClient(host.url) as client:
        entry = client.history(noted)
    assert entry is not None
    times = [data["timestamp"] / 1000 for _, data in entry["status"]["messages"] if "timestamp" in data]
    assert max(times) - min(times) > 9 * YEAR, "the clock did not jump"
    assert "Traceback" not in host.log()


def test_two_clients_of_one_host_get_their_own_pictures(host: PrivateHost) -> None:
    """Under one name, queued at once: all are there, each under the number that its client was told."""
    answers: dict[int, dict[str, int]] = {}

    def client_of(first: int) -> None:
        with ComfyClient(host.url) as client:
            ids = [client.submit(portrait(first + i, batch=2, prefix="clients/picture")) for i in range(0, 12, 2)]
            told: dict[str, int] = {}
            for index, prompt_id in enumerate(ids):
                client.follow(prompt_id)
                for image, ref in enumerate(client.outputs(prompt_id)):
                    told[ref.filename] = first + 2 * index + image
            answers[first] = told

    threads = [threading.Thread(target=client_of, args=(first,)) for first in (100, 200)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert pictures(host.base_directory / "output" / "clients") == answers[100] | answers[200]
    assert len(answers[100] | answers[200]) == 24


def test_two_hosts_on_the_same_folders_overwrite_nothing(tmp_path: Path) -> None:
    """Output, input, user and model folders are shared, and both save under one name at the same time."""
    first, second, shared = tmp_path / "first", tmp_path / "second", tmp_path / "shared"
    for name in ("output", "input", "user", "models"):
        (shared / name).mkdir(parents=True)
    arguments = [f"--{name}-directory={shared / name}" for name in ("output", "input", "user")]
    for base in (first, second):
        base.mkdir()
        (base / "models").symlink_to(shared / "models")
    rounds, batch = 6, 16
    failures: list[BaseException] = []

    def work(host: PrivateHost, start: int) -> None:
        try:
            for index in range(rounds):
                run(host, noise_pictures(start + index * batch, batch, side=32, prefix="both"))
        except BaseException as error:
            failures.append(error)

    with (
        PrivateHost(find_host(), PACKS, first, arguments=arguments, threads=1) as one,
        PrivateHost(find_host(), PACKS, second, arguments=arguments, threads=1) as other,
    ):
        threads = [threading.Thread(target=work, args=job) for job in ((one, 0), (other, 1000))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert failures == []
    seeds = sorted(pictures(shared / "output").values())
    assert seeds == [*range(rounds * batch), *range(1000, 1000 + rounds * batch)]
    assert os.listdir(second / "output") == []
