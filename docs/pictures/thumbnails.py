"""The thumbnails of the templates, all square: what a run of each leaves, put together.

`python docs/pictures/thumbnails.py` writes workflows/<template>.jpg for those that the demo model draws and that show
more than one picture; names of templates limit it to these. Nothing is drawn on them that the graph did not make.
"""

from __future__ import annotations

import io
import json
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from PIL import Image, ImageSequence

import ldm_backend
from ldm_headless import PACK_ROOT, ComfyClient, PrivateHost, find_host

SIDE, GAP = 512, 4


def whole(pictures: Sequence[Image.Image]) -> Image.Image:
    """The first picture, as large as fits, on the colour of its corner."""
    picture = pictures[0]
    scale = SIDE / max(picture.size)
    small = picture.resize((round(picture.width * scale), round(picture.height * scale)), Image.Resampling.LANCZOS)
    square = Image.new("RGB", (SIDE, SIDE), picture.getpixel((0, 0)))
    square.paste(small, ((SIDE - small.width) // 2, (SIDE - small.height) // 2))
    return square


def grid(pictures: Sequence[Image.Image]) -> Image.Image:
    """The first four or nine pictures in rows."""
    count = 3 if len(pictures) >= 9 else 2
    square = Image.new("RGB", (SIDE, SIDE), "white")
    edges = [round(number * (SIDE + GAP) / count) for number in range(count + 1)]
    for number, picture in enumerate(pictures[: count * count]):
        row, column = divmod(number, count)
        size = edges[column + 1] - edges[column] - GAP, edges[row + 1] - edges[row] - GAP
        square.paste(picture.resize(size, Image.Resampling.LANCZOS), (edges[column], edges[row]))
    return square


def strips(pictures: Sequence[Image.Image]) -> Image.Image:
    """A strip of each picture, in the place that it has there: the same portrait, seen in several ways."""
    square = Image.new("RGB", (SIDE, SIDE), "white")
    edges = [round(number * (SIDE + GAP) / len(pictures)) for number in range(len(pictures) + 1)]
    for number, picture in enumerate(pictures):
        left, right = edges[number], edges[number + 1] - GAP
        large = picture.resize((SIDE, SIDE), Image.Resampling.LANCZOS)
        square.paste(large.crop((left, 0, right, SIDE)), (left, 0))
    return square


def stitched(pictures: Sequence[Image.Image]) -> Image.Image:
    """Strips of the two halves of the first picture."""
    picture, half = pictures[0], pictures[0].height
    return strips([picture.crop((0, 0, half, half)), picture.crop((picture.width - half, 0, *picture.size))])


def detail(pictures: Sequence[Image.Image]) -> Image.Image:
    """Strips of what is in the middle of the pictures, twice as large."""

    def middle(picture: Image.Image) -> Image.Image:
        width, height = picture.size
        return picture.crop((round(0.2 * width), round(0.25 * height), round(0.7 * width), round(0.75 * height)))

    return strips([middle(picture) for picture in pictures])


def frames(pictures: Sequence[Image.Image]) -> Image.Image:
    """Nine moments of an animation."""
    count = len(pictures)
    return grid([pictures[number * (count - 1) // 8] for number in range(9)])


# How what a template leaves, in the order of its nodes, becomes one picture. The order of `strips`: saved, previewed.
FORMS: dict[str, Callable[[Sequence[Image.Image]], Image.Image]] = {
    "batch-of-seeds": grid,
    "code-view": lambda pictures: strips([pictures[2], pictures[0], pictures[1]]),
    "contact-sheet": whole,
    "demo": whole,
    "feature-cache": stitched,
    "guided-colourise": strips,
    "guided-repair": grid,
    "guided-restore": strips,
    "guided-style": strips,
    "image-to-image": grid,
    "inpaint": grid,
    "inversion": stitched,
    "latent-circle": frames,
    "portrait-x4": strips,
    "remove": strips,
    "remove-ksampler": strips,
    "save-and-inspect": whole,
    "seed-variations": whole,
    "seed-walk": frames,
    "text-portrait": grid,
    "upscale": detail,
    "upscale-ksampler": whole,
}
OWN = "example.png"  # what a template loads that is for pictures of users


def pictures_of(client: ComfyClient, template: str) -> list[Image.Image]:
    """What a run of the template loads and leaves, by the numbers of its nodes; of an animation its frames."""
    prompt = json.loads((PACK_ROOT / "workflows" / "api" / f"{template}.json").read_text(encoding="utf-8"))
    prompt_id = client.submit(prompt)
    client.follow(prompt_id)
    files = sorted(client.outputs(prompt_id), key=lambda file: int(file.node_id))
    opened = [Image.open(io.BytesIO(client.fetch(file))) for file in files]
    if any(node["class_type"] == "LoadImage" for node in prompt.values()):
        opened.insert(0, Image.open(io.BytesIO(own_picture())))
    return [frame.convert("RGB") for picture in opened for frame in ImageSequence.Iterator(picture)]


def own_picture() -> bytes:
    """A portrait, as users have pictures."""
    buffer = io.BytesIO()
    model = ldm_backend.load(PACK_ROOT / "demo" / "portraits-128", device="cpu")
    Image.fromarray(ldm_backend.generate(model, seeds=[12], steps=20, sampler="unipc")[0]).save(buffer, "PNG")
    return buffer.getvalue()


def main() -> None:
    """Write the thumbnails."""
    names = sys.argv[1:] or list(FORMS)
    with (
        tempfile.TemporaryDirectory(prefix="ldm-pictures-") as base,
        PrivateHost(
            find_host(), {"comfyui-ldm": PACK_ROOT}, Path(base), required_nodes=["LDMCheckpointLoader"]
        ) as host,
        ComfyClient(host.url) as client,
    ):
        client.upload(OWN, own_picture())
        for name in names:
            path = PACK_ROOT / "workflows" / f"{name}.jpg"
            FORMS[name](pictures_of(client, name)).save(path, quality=88)
            sys.stdout.write(f"{path.relative_to(PACK_ROOT)}\n")


if __name__ == "__main__":
    main()
