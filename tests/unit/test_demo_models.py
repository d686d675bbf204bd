"""The checkpoints that come with the pack: whole, small, and what they are for."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import ldm_backend
from ldm_backend.checkpoints.checkpoint import read_checkpoint

DEMO = Path(__file__).parents[2] / "demo"
# Name -> its task, its pipeline in diffusers if it has one, the most bytes of the folder.
MODELS = {
    "portraits-128": ("unconditional", "LDMPipeline", 20_000_000),
    "upscaler-4x": ("super-resolution", "LDMSuperResolutionPipeline", 16_000_000),
    "inpainter-128": ("inpainting", None, 12_000_000),
    "text-portraits-128": ("text-conditional", "LDMTextToImagePipeline", 16_000_000),
}

each = pytest.mark.parametrize("name", MODELS)


def test_these_are_there():
    assert {path.parent.name for path in DEMO.glob("*/unet")} == MODELS.keys()


@each
def test_the_checksums_are_those_of_all_files(name: str):
    folder = DEMO / name
    lines = (folder / "SHA256SUMS").read_text().splitlines()
    listed = {path: digest for digest, path in (line.split("  ") for line in lines)}
    found = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    del found["SHA256SUMS"]
    assert listed == {path: hashlib.sha256(content).hexdigest() for path, content in found.items()}
    assert sum(map(len, found.values())) <= MODELS[name][2]


@each
def test_it_is_read_as_what_it_is(name: str):
    task, pipeline, _ = MODELS[name]
    assert read_checkpoint(DEMO / name).config.task == task
    index = DEMO / name / "model_index.json"
    assert (json.loads(index.read_text())["_class_name"] if index.is_file() else None) == pipeline


def test_the_upscaler_shows_the_picture_that_it_was_given():
    """Made small again it is near, but for the drift of colours that the card tells of; noise would be at 0."""
    small = Image.open(DEMO.parent / "workflows" / "demo.jpg").convert("RGB").resize((64, 64), Image.Resampling.BOX)
    model = ldm_backend.load(DEMO / "upscaler-4x", device="cpu")
    large = ldm_backend.upscale(model, np.array(small)[None], seeds=[0], steps=8)[0]
    assert large.shape == (256, 256, 3)
    again = Image.fromarray(large).resize((64, 64), Image.Resampling.BOX)
    assert np.corrcoef(np.asarray(again).ravel(), np.asarray(small).ravel())[0, 1] > 0.95


def test_the_inpainter_fills_a_hole_with_what_fits():
    """Nearer to what was there than a plain colour, and all else as it was."""
    portrait = np.array(Image.open(DEMO.parent / "workflows" / "demo.jpg").convert("RGB").resize((128, 128)))
    hole = np.zeros((128, 128), bool)
    hole[48:82, 32:100] = True
    model = ldm_backend.load(DEMO / "inpainter-128", device="cpu")
    filled = ldm_backend.inpaint(model, portrait[None], hole, seeds=[0], steps=8)[0]
    assert np.array_equal(filled[~hole], portrait[~hole])
    plain = np.where(hole[..., None], portrait[~hole].mean(0), portrait)
    near, far = (np.square(image.astype(float) - portrait).mean() for image in (filled, plain))
    assert near < far / 2


def test_the_portrayer_draws_what_it_is_told():
    """Of the same seeds, in the mean: dark and fair skin in the middle, blue and red clothes at the bottom."""
    model = ldm_backend.load(DEMO / "text-portraits-128", device="cpu")
    texts, seeds = ("dark skin, blue top", "fair skin, red top"), range(4)
    prompts = [text for text in texts for _ in seeds]
    images = ldm_backend.generate(model, [*seeds] * 2, 8, sampler="dpmpp_2m", prompts=prompts, cfg=3.0).astype(float)
    (dark, fair), (blue, red) = (
        images[:, rows, 48:80].mean((1, 2)).reshape(2, -1, 3).mean(1) for rows in (slice(50, 90), slice(120, 128))
    )
    assert dark.mean() + 60 < fair.mean()
    assert (blue[0] - blue[2]) + 60 < red[0] - red[2]
