"""The hub, over its protocol against a local server: cache first, resumed, verified, and clear when it cannot work."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hub_server import CHUNK, COMMIT, REPO, HubServer

import ldm_backend
from ldm_backend.errors import CheckpointError
from ldm_backend.hub import models, transfer

UNET = "unet/diffusion_pytorch_model.safetensors"
VQ = "vqvae/diffusion_pytorch_model.safetensors"
LOAD = f"import ldm_backend; print(ldm_backend.load({REPO!r}, device='cpu').config.first_stage.num_vq_embeddings)"
# What `load` does first, without torch.
FIND = f"from ldm_backend.hub import models; print(models.local_path({REPO!r}))"
SECONDS = 40  # for one process; most take one, with torch four

pytestmark = pytest.mark.slow  # each download is a process of its own


@pytest.fixture
def server(tiny_folder: Path) -> Iterator[HubServer]:
    with HubServer(tiny_folder) as server:
        yield server


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """No settings of the user's, an empty cache, and a hub where nobody answers."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "HUGGING", "COMFYUI_"))}
    return {**kept, "HF_HOME": str(tmp_path / "hf"), "HF_ENDPOINT": f"http://127.0.0.1:{port}", "NO_PROXY": "127.0.0.1"}


class Runner:
    """Starts processes whose hub is that server; huggingface_hub reads the environment when it is imported."""

    def __init__(self, environment: dict[str, str], folder: Path) -> None:
        self.environment = environment
        self.folder = folder

    def start(self, *arguments: str, **environment: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-P", *arguments],
            env=self.environment | environment,
            cwd=self.folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            # A shell starts what runs in its background deaf to SIGINT, and children inherit that.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )

    def __call__(self, *arguments: str, **environment: str) -> tuple[int, str, str]:
        with self.start(*arguments, **environment) as process:
            try:
                out, err = process.communicate(timeout=SECONDS)
            finally:
                process.kill()
        assert "Traceback" not in err or arguments[0] == "-c", err
        return process.returncode, out.strip(), err

    def download(self, *options: str, **environment: str) -> tuple[int, str, str]:
        return self("-m", "ldm_headless", "download", *options, **environment)


@pytest.fixture
def offline(environment: dict[str, str], tmp_path: Path) -> Runner:
    return Runner(environment, tmp_path)


@pytest.fixture
def run(environment: dict[str, str], tmp_path: Path, server: HubServer) -> Runner:
    return Runner(environment | {"HF_ENDPOINT": server.url}, tmp_path)


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# ldm download


def test_download_into_the_model_folder_of_comfyui(
    run: Runner, server: HubServer, tmp_path: Path, tiny: ldm_backend.LatentDiffusion
) -> None:
    """Complete, one file of weights for each part, nothing else of the repository, and nothing but it in the folder."""
    (tmp_path / "ComfyUI" / "comfy").mkdir(parents=True)
    (tmp_path / "ComfyUI" / "main.py").touch()
    expected = dict(server.files)
    server.files |= {"README.md": b"a", "samples/a.png": b"b", "unet/diffusion_pytorch_model.bin": b"c"}
    server.described = dict(server.files)
    status, out, err = run.download(REPO, COMFYUI_PATH=str(tmp_path / "ComfyUI"))
    folder = tmp_path / "ComfyUI" / "models" / "ldm" / "tiny-ldm"
    assert (status, out) == (0, str(folder)), err
    assert files_of(folder) == expected
    assert list(folder.parent.iterdir()) == [folder]
    assert ldm_backend.load(folder, device="cpu").config == tiny.config

    status, _, err = run.download(REPO, "--to", str(folder))
    assert status == 2
    assert "exists already, and nothing is overwritten" in err


@pytest.mark.parametrize("cut_with", ["close", "reset"])
def test_a_cut_connection_is_taken_up_again(run: Runner, server: HubServer, tmp_path: Path, cut_with: str) -> None:
    server.files[UNET] = server.described[UNET] = bytes(range(256)) * (CHUNK // 128)  # twice the size of a piece
    server.cut_at, server.cut_with = {UNET: CHUNK + CHUNK // 2}, cut_with
    status, _, err = run.download(REPO, "--to", "model")
    assert status == 0, err
    first, second = server.transfers(UNET)
    assert (first, second) == (None, CHUNK)
    assert files_of(tmp_path / "model") == server.files


def test_the_next_process_continues_within_a_file(run: Runner, server: HubServer, tmp_path: Path) -> None:
    server.files[UNET] = server.described[UNET] = bytes(range(256)) * (CHUNK // 128)
    server.cut_at, server.cut_with = {UNET: CHUNK + CHUNK // 2}, "hang"
    with run.start("-m", "ldm_headless", "download", REPO, "--to", "model") as process:
        try:
            assert server.hanging.wait(SECONDS)
            end = time.monotonic() + SECONDS
            while time.monotonic() < end and not any(p.stat().st_size == CHUNK for p in tmp_path.rglob("*.part")):
                time.sleep(0.05)
            process.send_signal(signal.SIGINT)
            _, err = process.communicate(timeout=SECONDS)
        finally:
            process.kill()
    assert process.returncode == 130, err
    assert "what has arrived is kept, and the same command continues" in err
    assert not (tmp_path / "model").exists()

    assert server.transfers("scheduler/scheduler_config.json") == [None]
    server.requests.clear()
    status, _, err = run.download(REPO, "--to", "model")
    assert status == 0, err
    assert server.transfers(UNET) == [CHUNK]
    assert server.transfers("scheduler/scheduler_config.json") == []
    assert files_of(tmp_path / "model") == server.files
    assert not list(tmp_path.glob(".model*"))


def test_processes_at_once_do_not_meet(run: Runner, server: HubServer, tmp_path: Path) -> None:
    """One works, the others wait, and then see that it is done."""
    server.files[UNET] = server.described[UNET] = bytes(range(256)) * (CHUNK // 128)
    server.cut_at, server.cut_with = {UNET: CHUNK + CHUNK // 2}, "hang"
    command = ("-m", "ldm_headless", "download", REPO, "--to", "model")
    with run.start(*command) as first, run.start(*command) as second, run.start(*command) as third:
        try:
            assert server.hanging.wait(SECONDS)
            end = time.monotonic() + SECONDS
            while time.monotonic() < end and not any(p.stat().st_size == CHUNK for p in tmp_path.rglob("*.part")):
                time.sleep(0.05)
            working = server.transfers(UNET)
            time.sleep(1)
            assert server.transfers(UNET) == working == [None]
            server.released.set()
            results = [process.communicate(timeout=SECONDS) for process in (first, second, third)]
        finally:
            for process in (first, second, third):
                process.kill()
    assert sorted(process.returncode for process in (first, second, third)) == [0, 2, 2], results
    assert sum("exists already, and nothing is overwritten" in err for _, err in results) == 2
    assert files_of(tmp_path / "model") == server.files
    assert [path.name for path in tmp_path.iterdir() if path.name not in ("tiny", "hf")] == ["model"]


def test_who_waits_may_find_the_folder_taken_away(tmp_path: Path) -> None:
    """Each finds the model finished and removes the empty folder, at any moment of the others' beginning."""
    folder = tmp_path / ".model.partial"
    at_once = []

    def find_it_finished(_: int) -> None:
        with transfer.locked(folder, private=True):
            at_once.append(len(list(folder.iterdir())))
            folder.rmdir()

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(find_it_finished, range(1000)))
    assert at_once == [0] * 1000
    assert not folder.exists()


@pytest.mark.parametrize("target", ["nowhere", "file"])
def test_what_is_no_folder_is_not_waited_for(tmp_path: Path, target: str) -> None:
    (tmp_path / "file").touch()
    (tmp_path / ".model.partial").symlink_to(tmp_path / target)
    with pytest.raises(FileExistsError), transfer.locked(tmp_path / ".model.partial", private=True):
        pass


@pytest.mark.parametrize("path", [UNET, "scheduler/scheduler_config.json"])
def test_a_wrong_hash_is_refused(run: Runner, server: HubServer, tmp_path: Path, path: str) -> None:
    """Same size, one bit: neither in the folder nor in what the next call continues from."""
    good = server.files[path]
    server.files[path] = good[:-1] + bytes([good[-1] ^ 1])
    status, out, err = run.download(REPO, "--to", "model")
    assert (status, out) == (2, "")
    assert f"{REPO}: {path} came with other content than the hub describes" in err
    assert not (tmp_path / "model").exists()
    assert path not in {name.partition("/")[2] for partial in tmp_path.glob(".model*") for name in files_of(partial)}
    assert server.files[path] not in files_of(tmp_path).values()

    server.files[path] = good
    assert run.download(REPO, "--to", "model")[0] == 0
    assert files_of(tmp_path / "model") == server.files


def test_download_without_a_place(offline: Runner) -> None:
    status, _, err = offline.download()
    assert status == 2
    assert "no place for CompVis/ldm-celebahq-256: give a folder with --to, or set COMFYUI_PATH" in err
    status, _, err = offline.download(COMFYUI_PATH=os.devnull)
    assert status == 4
    assert "correct COMFYUI_PATH" in err


# What can go wrong before anything comes


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["someone/nothing"], r"someone/nothing: not on this machine, and http://127.0.0.1:\d+ has no public model"),
        ([REPO, "--revision", "v9"], f"{REPO}: .* has no revision 'v9' of it. Take a branch, a tag"),
        (["a--b/c..d"], "a--b/c..d: .*Cannot have -- or"),
        (["no-owner"], "no-owner: not the name of a model on the hub; expected OWNER/NAME"),
    ],
)
def test_names_that_lead_nowhere(run: Runner, tmp_path: Path, options: list[str], message: str) -> None:
    check_refused(run.download(*options, "--to", "model"), message, tmp_path)


def test_a_gated_model(run: Runner, server: HubServer, tmp_path: Path) -> None:
    server.gated = True
    message = rf"{REPO}: access is restricted. Accept its conditions on http://.*/{REPO}, then log in"
    check_refused(run.download(REPO, "--to", "model"), message, tmp_path)


def test_a_repository_of_something_else(run: Runner, server: HubServer, tmp_path: Path) -> None:
    server.described = {name: data for name, data in server.files.items() if not name.startswith("vqvae")}
    message = r"holds no vqvae/config.json, no vqvae/diffusion_pytorch_model.safetensors or .*; expected the folders"
    check_refused(run.download(REPO, "--to", "model"), message, tmp_path)


def test_without_network(offline: Runner, tmp_path: Path) -> None:
    reason = r"failed \(.*refused.*\). Check the name, the network"
    message = rf"{REPO}: not whole on this machine, and the download from http.* {reason}"
    check_refused(offline.download(REPO, "--to", "model"), message, tmp_path)


def test_offline_mode_asks_nobody(run: Runner, server: HubServer, tmp_path: Path) -> None:
    message = f"{REPO}: not whole on this machine, and HF_HUB_OFFLINE forbids asking http.*Unset it"
    check_refused(run.download(REPO, "--to", "model", HF_HUB_OFFLINE="1"), message, tmp_path)
    assert server.requests == []


def check_refused(result: tuple[int, str, str], message: str, folder: Path) -> None:
    """Exit code 2, one line on standard error, and no file anywhere."""
    status, out, err = result
    assert (status, out) == (2, "")
    line = err.strip()
    assert "\n" not in line
    assert re.search(message, line), line
    assert [path.name for path in folder.iterdir() if path.name not in ("tiny", "hf")] == []


# ldm_backend.load(name)


def test_load_takes_the_cache_without_asking(run: Runner, server: HubServer) -> None:
    status, out, err = run("-c", LOAD)
    assert (status, out) == (0, "64"), err
    assert server.transfers(UNET) == [None]
    server.requests.clear()
    status, out, err = run("-c", LOAD)
    assert (status, out, server.requests) == (0, "64", []), err
    status, out, err = run("-c", FIND, HF_HUB_OFFLINE="1")
    assert (status, files_of(Path(out))) == (0, server.files), err


def test_a_part_of_a_model_in_the_cache_does_not_count(run: Runner, server: HubServer, tmp_path: Path) -> None:
    """It is completed, and only that; and `ldm download` takes from the cache what is good there."""
    snapshot = Path(run("-c", FIND)[1])
    (snapshot / VQ).resolve().unlink()
    server.requests.clear()
    status, _, err = run("-c", FIND, HF_HUB_OFFLINE="1")
    assert status == 1
    assert f"CheckpointError: {REPO}: not whole on this machine, and HF_HUB_OFFLINE forbids" in err
    assert run("-c", FIND)[:2] == (0, str(snapshot))
    assert (server.transfers(UNET), server.transfers(VQ)) == ([], [None])

    (snapshot / UNET).resolve().write_bytes(b"damaged")
    assert run.download(REPO, "--to", "model")[0] == 0
    assert (server.transfers(UNET), server.transfers(VQ)) == ([None], [None])
    assert files_of(tmp_path / "model") == server.files


def test_load_refuses_a_wrong_hash_and_forgets_the_file(run: Runner, server: HubServer, tmp_path: Path) -> None:
    good = server.files[UNET]
    server.files[UNET] = good[:-1] + bytes([good[-1] ^ 1])
    status, _, err = run("-c", LOAD)
    assert status == 1
    assert f"{REPO}: {UNET} came with other content than the hub describes" in err
    assert server.files[UNET] not in files_of(tmp_path / "hf").values()
    status, _, err = run("-c", FIND, HF_HUB_OFFLINE="1")
    assert status == 1
    assert "not whole on this machine" in err
    server.files[UNET] = good
    status, out, err = run("-c", FIND)
    assert (status, files_of(Path(out))) == (0, server.files), err


def test_a_revision_is_taken_from_the_cache_under_its_name(run: Runner, server: HubServer) -> None:
    for revision in ("main", COMMIT):
        find = FIND.replace(f"({REPO!r})", f"({REPO!r}, {revision!r})")
        assert run("-c", find)[0] == 0
        server.requests.clear()
        assert run("-c", find)[0] == 0
        assert server.requests == []


def test_a_name_that_leads_nowhere(offline: Runner) -> None:
    status, _, err = offline("-c", FIND)
    assert status == 1
    assert f"CheckpointError: {REPO}: not whole on this machine, and the download from" in err


def test_paths_are_no_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a" / "b").mkdir(parents=True)
    for path in ("a/b", tmp_path / "absent", "absent", "one/two/three", "./absent/model"):
        assert models.local_path(path) == Path(path)


def test_without_huggingface_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(CheckpointError, match=r"someone/nothing: nothing is there, and huggingface_hub.*pip install"):
        models.local_path("someone/nothing")
