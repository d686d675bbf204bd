"""What loading a released model of classes or texts takes of memory: its file, and 15 % more."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from compvis_writer import whole_shapes, write_holes

pytestmark = [pytest.mark.full_size, pytest.mark.slow]

MEASURED = """
import json, sys, re
from pathlib import Path
import ldm_backend, ldm_backend.pipeline, yaml

def resident(field):
    return int(re.search(rf"^{field}:\\s+(\\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)[1]) * 1024

before = resident("VmRSS")
Path("/proc/self/clear_refs").write_text("5")
model = ldm_backend.load(sys.argv[1], "cpu", config=sys.argv[2])
count = sum(p.numel() for part in (model.unet, model.first_stage, model.conditioner) for p in part.parameters())
print(json.dumps({"peak": resident("VmHWM") - before, "after": resident("VmRSS") - before, "parameters": count}))
"""
RELEASES = [
    pytest.param("cin256-v2", "imagenet-256", id="cin256-v2"),
    pytest.param(
        "text2img-large",
        "text-to-image-large-256",
        id="text2img-large",
        marks=pytest.mark.skipif("LDM_LARGE" not in os.environ, reason="6 GB of memory; set LDM_LARGE=1"),
    ),
]


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="reads peaks from /proc")
@pytest.mark.parametrize(("release", "preset"), RELEASES)
def test_loading_takes_no_more_than_the_file_and_a_little(tmp_path: Path, release: str, preset: str):
    """Peak of resident memory above the imports. The file is of holes, whose pages count as those of any other."""
    file = tmp_path / "model.safetensors"
    write_holes(file, whole_shapes(release, ema=False))
    done = subprocess.run(
        [sys.executable, "-c", MEASURED, str(file), preset], check=True, stdout=subprocess.PIPE, text=True
    )
    found = json.loads(done.stdout.splitlines()[-1])
    assert 4 * found["parameters"] <= file.stat().st_size  # all are of the file
    assert found["peak"] <= 1.15 * file.stat().st_size, found
