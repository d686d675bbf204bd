"""Paths that lead to no file, and files of another kind."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

from .registry import UNET, bad

# Things that are no file


@bad("a folder is there|no weights")
def folder_in_place_of_the_weights(f: Path) -> None:
    (f / UNET).unlink()
    (f / UNET).mkdir()


@bad("nothing is there")
def symlink_loop(f: Path) -> Path:
    (f / "a").symlink_to(f / "b")
    (f / "b").symlink_to(f / "a")
    return f / "a"


@bad("no weights")
def dangling_symlink(f: Path) -> None:
    (f / UNET).unlink()
    (f / UNET).symlink_to(f / "nowhere")


@bad("no weights")
def symlink_to_a_device(f: Path) -> None:
    (f / UNET).unlink()
    (f / UNET).symlink_to("/dev/zero")


@bad("nothing is there|nothing readable")
def pipe(f: Path) -> Path:
    os.mkfifo(f / "model.ckpt")
    return f / "model.ckpt"


@bad("missing")
def pipe_in_place_of_a_configuration(f: Path) -> None:
    (f / "unet" / "config.json").unlink()
    os.mkfifo(f / "unet" / "config.json")


@bad("missing")
def empty_folder(f: Path) -> Path:
    (f / "new").mkdir()
    return f / "new"


# Files of another kind


@bad(
    "cannot be read",
    nothing=b"",
    one_byte=b"{",
    text=b"This is not a model.\n" * 100,
    picture=b"\x89PNG\r\n\x1a\n" + bytes(1000),
    web_page=b"<!DOCTYPE html><html><head><title>Access denied</title>",
    git_lfs_pointer=b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 1096210432\n",
    zeros=bytes(4096),
    bare_pickle=pickle.dumps({"a": 1}, protocol=2),
    torch_before_1_6=b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03.",
)
def other_file(f: Path, content: bytes) -> None:
    (f / UNET).write_bytes(content)
