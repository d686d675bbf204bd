"""Load Checkpoint of the host and files of this family: it takes none for Stable Diffusion, nor for anything else."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from compvis_writer import whole_shapes, write_holes

from ldm_headless import find_host

pytestmark = pytest.mark.full_size

TRIED = """
import sys
sys.path.insert(0, sys.argv[1])
from comfy.cli_args import args
args.cpu = True
import comfy.sd
for file in sys.argv[2:]:
    try:
        comfy.sd.load_checkpoint_guess_config(file)
    except RuntimeError as error:
        print("refused:", str(error).splitlines()[0])
    else:
        print("loaded:", file)
"""
RELEASES = ("text2img-large", "text2img256", "cin256-v2", "cin256")


def test_the_host_takes_no_file_of_classes_or_texts_for_another_model(tmp_path: Path):
    """Files of the names and shapes of the releases; of holes, which read as zeros."""
    files = [tmp_path / f"{release}.safetensors" for release in RELEASES]
    for file in files:
        write_holes(file, whole_shapes(file.stem, ema=file.stem in ("cin256", "text2img256")))
    host = find_host()
    done = subprocess.run(
        [host.python, "-P", "-c", TRIED, str(host.path), *map(str, files)],
        check=True, stdout=subprocess.PIPE, text=True, cwd=host.path,
    )  # fmt: skip
    told = [line for line in done.stdout.splitlines() if line.startswith(("refused:", "loaded:"))]
    assert told == [f"refused: ERROR: Could not detect model type of: {file}" for file in files]
