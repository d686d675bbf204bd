"""A hub that lies and a folder that somebody prepared: nothing counts unread, and nothing is written elsewhere."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hub_server import COMMIT, REPO, HubServer, ask_here

from ldm_backend.errors import CheckpointError
from ldm_backend.hub import transfer
from ldm_backend.hub.models import download, local_path

CONFIG = "unet/config.json"
UNET = "unet/diffusion_pytorch_model.safetensors"
SMALL = {
    "model_index.json": b"{}",
    "scheduler/scheduler_config.json": b'{"a": 1}',
    CONFIG: b'{"b": 2}',
    UNET: bytes(range(256)) * 40,
    "vqvae/config.json": b'{"c": 3}',
    "vqvae/diffusion_pytorch_model.bin": bytes(range(255, -1, -1)) * 30,
}


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    """The hub that huggingface_hub asks in this process, with files of no meaning; its cache is empty."""
    with HubServer(tmp_path / "absent") as server:
        server.files, server.described = dict(SMALL), dict(SMALL)
        ask_here(server.url, tmp_path / "cache", monkeypatch)
        yield server


@pytest.fixture
def out(tmp_path: Path) -> Path:
    (tmp_path / "models").mkdir()
    return tmp_path / "models" / "model"


@pytest.fixture
def partial(out: Path) -> Path:
    """Where an interrupted download lies, as everybody can tell."""
    return out.parent / f".model-{COMMIT[:12]}.partial"


@pytest.fixture
def precious(tmp_path: Path) -> Path:
    file = tmp_path / "precious"
    file.write_bytes(b"precious")
    return file


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def damaged(content: bytes) -> bytes:
    return content[:-1] + bytes([content[-1] ^ 1])


pytestmark = pytest.mark.slow  # each download is brought to the disk


# What lies in the folder of an interrupted download


@pytest.mark.parametrize("path", [CONFIG, UNET, "vqvae/diffusion_pytorch_model.bin", "model_index.json"])
@pytest.mark.parametrize("ending", ["", ".part"])
@pytest.mark.parametrize("how", [damaged, lambda it: it[: len(it) // 2], lambda _: b"x", lambda it: it + b"more"])
def test_what_was_there_is_read_before_it_counts(
    server: HubServer, out: Path, partial: Path, path: str, ending: str, how: Callable[[bytes], bytes]
) -> None:
    planted = partial / (path + ending)
    planted.parent.mkdir(parents=True, exist_ok=True)
    planted.write_bytes(how(SMALL[path]))
    download(REPO, out)
    assert files_of(out) == SMALL
    assert server.transfers(path)


def test_what_was_there_and_is_right_is_not_asked_for(server: HubServer, out: Path, partial: Path) -> None:
    for path, content in SMALL.items():
        (partial / path).parent.mkdir(parents=True, exist_ok=True)
        (partial / path).write_bytes(content)
    (partial / UNET).rename(partial / (UNET + ".part"))
    download(REPO, out)
    assert (files_of(out), list(out.parent.iterdir())) == (SMALL, [out])
    assert [request for request in server.requests if "/resolve/" in request.path] == []


@pytest.mark.parametrize(
    ("place", "shown"),
    [
        (UNET, "unet/diffusion"),
        (UNET + ".part", "unet/diffusion"),
        (CONFIG, "unet/config.json"),
        ("unet", "unet"),
        ("vqvae", "vqvae"),
        ("unet_ema/config.json", "unet_ema"),
        ("model_index.json.part", "model_index.json.part"),
        ("conftest.py", "conftest.py"),
        ("unet/diffusion_pytorch_model.safetensors.index.json", "index.json"),
    ],
)
@pytest.mark.parametrize("what", ["link", "link to a folder", "pipe"])
def test_what_no_download_has_put_there_is_refused(
    server: HubServer, out: Path, partial: Path, precious: Path, place: str, shown: str, what: str
) -> None:
    planted = partial / place
    planted.parent.mkdir(parents=True)
    if what == "pipe":
        os.mkfifo(planted)
    else:
        planted.symlink_to(precious if what == "link" else precious.parent)
    before = files_of(precious.parent)
    with pytest.raises(CheckpointError, match=f"{partial.name}: refused: holds .*{shown}.*Remove that folder"):
        download(REPO, out)
    assert (files_of(precious.parent), out.exists()) == (before, False)


@pytest.mark.parametrize("place", ["unet_ema/config.json", "config.yaml", "unet/other.safetensors"])
def test_plain_files_of_somebody_are_not_handed_on(server: HubServer, out: Path, partial: Path, place: str) -> None:
    (partial / place).parent.mkdir(parents=True)
    (partial / place).write_bytes(b"mine")
    with pytest.raises(CheckpointError, match="refused: holds .*which no download has put there"):
        download(REPO, out)
    assert ((partial / place).read_bytes(), out.exists()) == (b"mine", False)


def test_a_link_in_the_place_of_the_folder(server: HubServer, out: Path, partial: Path, precious: Path) -> None:
    (precious.parent / "elsewhere").mkdir()
    partial.symlink_to(precious.parent / "elsewhere")
    with pytest.raises(CheckpointError, match=r"partial: refused: a link, in the place of an interrupted download"):
        download(REPO, out)
    assert list((precious.parent / "elsewhere").iterdir()) == []


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can make others' folders")
@pytest.mark.parametrize("place", ["", "unet", UNET])
def test_what_belongs_to_somebody_else(server: HubServer, out: Path, partial: Path, place: str) -> None:
    (partial / UNET).parent.mkdir(parents=True)
    (partial / UNET).write_bytes(SMALL[UNET])
    os.chown(partial / place, 65534, 65534)
    with pytest.raises(CheckpointError, match="refused: (somebody else's folder|holds unet)"):
        download(REPO, out)


def test_nobody_else_writes_there_meanwhile(
    server: HubServer, out: Path, partial: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    modes = []
    monkeypatch.setattr("ldm_backend.hub.models.matches", lambda *_: modes.append(partial.stat().st_mode & 0o777))
    partial.mkdir(mode=0o777)
    download(REPO, out)
    assert (set(modes), out.stat().st_mode & 0o777, (out / UNET).stat().st_mode & 0o777) == ({0o700}, 0o755, 0o644)


# What the hub says


@pytest.mark.parametrize(
    "commit",
    [
        "/../../../x", "..", "../" * 12 + "x", "", "0" * 39, "0" * 41, "g" * 40, "A" * 40, "main", COMMIT + "\n",
        7, [COMMIT], {}, True, None,
    ],
)  # fmt: skip
def test_a_commit_is_forty_digits(server: HubServer, out: Path, tmp_path: Path, commit: Any) -> None:
    server.described_commit = commit
    for call in (lambda: download(REPO, out), lambda: local_path(REPO)):
        with pytest.raises(CheckpointError, match=r"the commit is .*; expected 40 hexadecimal digits\). Check HF_ENDP"):
            call()
    assert files_of(tmp_path) == {}


@pytest.mark.parametrize(
    "path",
    [
        "unet/../../x", "/etc/x", "../x", "unet/../../diffusion_pytorch_model.safetensors", "unet\\..\\..\\x",
        "unet/diffusion_pytorch_model./../x.safetensors", "unet/diffusion_pytorch_model.x/../../y.safetensors",
        "unet/diffusion_pytorch_model-00001-of-00001/../../x.safetensors", "C:\\x", "//x", "unet/a\0b",
        5, None, ["a"], {"a": 1},
    ],
)  # fmt: skip
def test_names_that_lead_elsewhere_are_not_taken(server: HubServer, out: Path, tmp_path: Path, path: Any) -> None:
    """Beside the model, or in the place of its weights."""
    server.described["odd"] = server.files["odd"] = b"odd"
    server.described_entries = {"odd": {"rfilename": path}}
    try:
        download(REPO, out)
    except CheckpointError as error:  # a list is no key
        assert "not as the hub does" in str(error)  # noqa: PT017 - either is right
    else:
        assert files_of(out) == SMALL
    assert b"odd" not in files_of(tmp_path).values()
    server.described_entries = {UNET: {"rfilename": path}}
    with pytest.raises(CheckpointError, match="holds no unet/|not as the hub does"):
        download(REPO, out.with_name("other"))


@pytest.mark.parametrize(
    "entry",
    [
        {"size": -1}, {"size": True}, {"size": "9"}, {"size": None}, {"size": 1e30}, {"size": [1]},
        {"lfs": {"size": 1}},
        *({"lfs": {"sha256": it, "size": 1, "pointerSize": 1}} for it in ("x", "/" * 64, "A" * 64, 5, None, [])),
        *({"lfs": None, "blobId": name} for name in ("z" * 40, "../x", 3, None, [])),
        {"lfs": "x"}, {"lfs": [1]},
    ],
)  # fmt: skip
def test_a_file_without_a_checksum_is_not_asked_for(server: HubServer, out: Path, tmp_path: Path, entry: Any) -> None:
    server.described_entries = {UNET: entry}
    with pytest.raises(CheckpointError, match="names no checksum of unet/diffusion|not as the hub does"):
        download(REPO, out)
    assert files_of(tmp_path) == {}
    assert server.transfers(UNET) == []


@pytest.mark.parametrize("path", [CONFIG, UNET])
@pytest.mark.parametrize("more", [1, 3 * 2**20])
def test_more_than_it_should_be_is_given_up(server: HubServer, out: Path, tmp_path: Path, path: str, more: int) -> None:
    server.behind = bytes(more)
    with pytest.raises(CheckpointError, match="came with other content than the hub describes.*It was removed"):
        download(REPO, out)
    assert max(map(len, files_of(tmp_path).values()), default=0) <= max(map(len, SMALL.values()))
    assert not out.exists()


@pytest.mark.parametrize(
    ("status", "headers", "message"),
    [
        (401, {"X-Error-Message": "Invalid credentials in Authorization header"}, "have it .*hf auth login"),
        (403, {}, r"does not let you have it .*403.*HF_TOKEN"),
        (403, {"X-Error-Code": "GatedRepo"}, "access is restricted"),
        (404, {"X-Error-Code": "RepoNotFound"}, "has no public model of that name"),
        (404, {"X-Error-Code": "RevisionNotFound"}, "has no revision"),
        (404, {}, "not whole on this machine, and the download .*404"),
        (418, {}, "not whole on this machine, and the download"),
        (200, {}, "answers, but not as the hub does"),
        (500, {}, "cannot serve it now .*500.*Try again later"),
        (503, {"X-Error-Message": "\x1b[31mwait\x07" + "x" * 9999}, "cannot serve it now .*503.*Try again later"),
    ],
)
@pytest.mark.parametrize("when", ["at first", "in a transfer"])
def test_a_refusal_tells_the_way_out(
    server: HubServer, out: Path, monkeypatch: pytest.MonkeyPatch, status: int, headers: Any, message: str, when: str
) -> None:
    server.headers = headers
    if when == "at first":
        server.status = status
    else:
        real = transfer._receive_whole
        monkeypatch.setattr(
            transfer, "_receive_whole", lambda *args: (setattr(server, "status", status), real(*args))
        )  # fmt: skip
        message = "came with other content|download .*failed" if status == 200 else message
    with pytest.raises(CheckpointError, match=message) as caught:
        download(REPO, out)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 900
    assert not out.exists()


@pytest.mark.parametrize("revision", ["../../x", "a/../b", "/x", "", "a b", "a\nb", "C:\\x", "-x", "a//b", "."])
def test_a_revision_becomes_no_path_elsewhere(server: HubServer, out: Path, tmp_path: Path, revision: str) -> None:
    for call in (lambda: download(REPO, out, revision), lambda: local_path(REPO, revision)):
        with pytest.raises(CheckpointError, match="is no revision. Take a branch, a tag or a whole commit id"):
            call()
    assert server.requests == []


# The cache


def test_the_cache_is_as_the_hub_makes_it(server: HubServer, tmp_path: Path) -> None:
    """So that every other program finds the files there."""
    from huggingface_hub import try_to_load_from_cache

    snapshot = local_path(REPO)
    assert snapshot == tmp_path / "cache" / "models--someone--tiny-ldm" / "snapshots" / COMMIT
    assert files_of(snapshot) == SMALL
    for revision in (None, "main", COMMIT):
        found = try_to_load_from_cache(REPO, UNET, revision=revision, cache_dir=str(tmp_path / "cache"))
        assert found == str(snapshot / UNET)


@pytest.mark.parametrize("how", ["linked content", "linked elsewhere", "plain"])
def test_a_damaged_file_of_an_incomplete_cache_is_replaced(
    server: HubServer, tmp_path: Path, precious: Path, how: str
) -> None:
    """Only the cache's own content goes with it."""
    snapshot = local_path(REPO)
    (snapshot / CONFIG).unlink()
    (snapshot / UNET).unlink()
    if how == "plain":
        (snapshot / UNET).write_bytes(damaged(SMALL[UNET]))
    else:
        blob = snapshot.parents[1] / "blobs" / "abc" if how == "linked content" else precious
        blob.parent.mkdir(exist_ok=True)
        blob.write_bytes(b"precious")
        (snapshot / UNET).symlink_to(blob)
    assert files_of(local_path(REPO)) == SMALL
    assert precious.read_bytes() == b"precious"
    assert not (snapshot.parents[1] / "blobs" / "abc").exists()


def test_no_file_has_its_name_in_the_cache_before_it_is_verified(server: HubServer, tmp_path: Path) -> None:
    server.files[UNET] = damaged(SMALL[UNET])
    with pytest.raises(CheckpointError, match="came with other content"):
        local_path(REPO)
    names = set(files_of(tmp_path / "cache"))
    assert not any(name.endswith(UNET) for name in names), names


# Which files


def weights(part: str, *names: str) -> dict[str, bytes]:
    return {f"{part}/{name}": f"{part} {name}".encode() for name in names}


BARE = {name: content for name, content in SMALL.items() if name.endswith(".json")}
PLAIN, HALF = "diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.fp16.safetensors"
HALF_BIN, BF16 = "diffusion_pytorch_model.fp16.bin", "diffusion_pytorch_model.bf16.safetensors"
INDEX, HALF_INDEX = f"{PLAIN}.index.json", f"{PLAIN}.index.fp16.json"
SHARDS = [f"diffusion_pytorch_model-0000{n}-of-00003.safetensors" for n in (1, 2, 3)]
HALF_SHARDS = [f"diffusion_pytorch_model.fp16-0000{n}-of-00002.safetensors" for n in (1, 2)]
OLD_HALF_SHARDS = [f"diffusion_pytorch_model-0000{n}-of-00002.fp16.safetensors" for n in (1, 2)]


@pytest.mark.parametrize(
    ("unet", "stage", "variant", "taken"),
    [
        ([HALF], [HALF], None, ([HALF], [HALF])),
        ([HALF, HALF_BIN], [HALF_BIN], None, ([HALF], [HALF_BIN])),
        ([PLAIN, HALF, BF16], [PLAIN, HALF], None, ([PLAIN], [PLAIN])),
        ([PLAIN, HALF, BF16], [PLAIN, HALF], "fp16", ([HALF], [HALF])),
        ([PLAIN, BF16], [PLAIN], "bf16", ([BF16], [PLAIN])),
        ([INDEX, *SHARDS], [PLAIN], None, ([INDEX, *SHARDS], [PLAIN])),
        ([INDEX, *SHARDS, PLAIN], [PLAIN], None, ([PLAIN], [PLAIN])),
        ([HALF_INDEX, *HALF_SHARDS], [HALF], None, ([HALF_INDEX, *HALF_SHARDS], [HALF])),
        ([HALF_INDEX, *OLD_HALF_SHARDS, INDEX, *SHARDS], [PLAIN], "fp16", ([HALF_INDEX, *OLD_HALF_SHARDS], [PLAIN])),
        ([HALF_INDEX, *HALF_SHARDS, INDEX, *SHARDS], [PLAIN], None, ([INDEX, *SHARDS], [PLAIN])),
    ],
)
def test_variants_and_shards(
    server: HubServer, out: Path, unet: list[str], stage: list[str], variant: str | None, taken: Any
) -> None:
    server.files = BARE | weights("unet", *unet) | weights("vqvae", *stage)
    server.described = dict(server.files)
    download(REPO, out, variant=variant)
    assert files_of(out) == BARE | weights("unet", *taken[0]) | weights("vqvae", *taken[1])
    assert list(out.parent.iterdir()) == [out]
    if variant is None:
        assert set(files_of(local_path(REPO))) == set(files_of(out))


@pytest.mark.parametrize(
    ("unet", "variant", "message"),
    [
        ([HALF, BF16], None, "unet has the variants bf16, fp16, and no plain weights.*--variant"),
        ([PLAIN], "fp16", "no weights of the variant fp16; there are none"),
        ([PLAIN, BF16], "../x", r"no weights of the variant \.\./x; there are bf16"),
        ([INDEX, *SHARDS[1:]], None, "holds no unet/diffusion_pytorch_model.safetensors or"),
        ([INDEX, *SHARDS, *OLD_HALF_SHARDS, SHARDS[0].replace("3.", "4.")], None, "holds no unet/diffusion"),
        (SHARDS, None, "holds no unet/diffusion"),
    ],
)
def test_weights_of_which_none_is_meant(
    server: HubServer, out: Path, unet: list[str], variant: str | None, message: str
) -> None:
    server.files = BARE | weights("unet", *unet) | weights("vqvae", PLAIN)
    server.described = dict(server.files)
    with pytest.raises(CheckpointError, match=message):
        download(REPO, out, variant=variant)
    assert list(out.parent.iterdir()) == []


def test_a_variant_in_the_cache_is_not_taken_for_the_model(server: HubServer) -> None:
    """Another program may have put it there; the hub has plain weights."""
    snapshot = local_path(REPO)
    (snapshot / UNET).rename(snapshot / UNET.replace(".safe", ".fp16.safe"))
    assert (local_path(REPO) / UNET).read_bytes() == SMALL[UNET]
    assert server.transfers(UNET) == [None, None]
