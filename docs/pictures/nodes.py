"""The pictures of the help pages: each node in a template after a run, with what came of it.

`python docs/pictures/nodes.py` writes web/docs/images/<node id>.jpg; names of nodes limit it to these.
"""

from __future__ import annotations

import io
import json
import sys
from itertools import groupby

from editor import editor, load, run
from PIL import Image
from playwright.sync_api import Page

from ldm_headless import PACK_ROOT

# The template in which a node is shown, and the titles of the nodes in the picture, from top to bottom.
SNIPPETS: dict[str, tuple[str, tuple[str, ...]]] = {
    "LDMCheckpointLoader": ("demo", ("Load checkpoint", "Save portrait")),
    "LDMDDIMSampler": ("demo", ("Noise to latent", "Save portrait")),
    "LDMVQDecode": ("demo", ("Latent to image", "Save portrait")),
    "LDMLatentNoise": ("batch-of-seeds", ("Noise for each seed", "Save portraits")),
    "LDMEmptyLatent": ("ksampler", ("Empty latent", "Noise to latent", "Save portrait")),
    "LDMSampler": ("fast-sampling", ("Noise to latent", "Save portraits")),
    "LDMVQDecodeTiled": ("tiled-decode", ("Latent to image, in tiles", "Save large picture")),
    "LDMEmptyConditioning": ("ksampler", ("No prompt", "Noise to latent", "Save portrait")),
    "LDMSamplerSelect": ("custom-sampling", ("Sampler", "Noise to latent", "Save portraits")),
    "LDMSigmas": ("custom-sampling", ("Steps", "Noise to latent", "Save portraits")),
    "LDMGuider": ("custom-sampling", ("Guider without conditioning", "Noise to latent", "Save portraits")),
    "LDMNoise": ("custom-sampling", ("Noise for each seed", "Noise to latent", "Save portraits")),
    "LDMSaveImage": ("save-and-inspect", ("Latent to image", "Save with seed and settings")),
    "LDMCheckpointSave": ("save-and-inspect", ("Load checkpoint", "Save as one file")),
    "LDMModelInfo": ("save-and-inspect", ("What the model is", "Description")),
    "LDMVQEncode": ("image-to-image", ("Before", "Image to latent")),
    "LDMImageToImage": ("image-to-image", ("Before", "Draw it anew", "Save versions")),
    "LDMInpaint": ("inpaint", ("Picture and area", "Paint the area", "Save versions")),
    "LDMInpaintComposite": ("inpaint", ("Picture and area", "Keep all other pixels", "Save versions")),
    "LDMDDIMInversion": ("inversion", ("Latent to noise", "Noise to latent again", "Save both")),
    "LDMSeedWalk": ("seed-walk", ("Walk between two seeds", "Save animation")),
    "LDMLatentWalk": ("latent-circle", ("Circle through both", "Save animation")),
    "LDMSeedVariations": ("seed-variations", ("Noise near a seed", "Save contact sheet")),
    "LDMContactSheet": ("contact-sheet", ("Contact sheet", "Save contact sheet")),
    "LDMInpaintModel": ("remove", ("Portrait", "Remove it", "Save portrait")),
    "LDMInpaintConditioning": (
        "remove-ksampler",
        ("What the model sees", "Noise to latent of the whole", "The whole, drawn anew", "Save portrait"),
    ),
    "LDMSuperResolution": ("portrait-x4", ("Portrait", "Four times as large", "Save large portrait")),
    "LDMSuperResolutionConditioning": (
        "upscale-ksampler",
        (
            "What the model sees",
            "Noise to latent, four times as large",
            "Large latent to image",
            "Save large portrait",
        ),
    ),
    "LDMGuideLowResolution": (
        "guided-restore",
        ("Make it small", "Known: it is small", "Seen by the guide", "Save restored portrait"),
    ),
    "LDMGuided": (
        "guided-restore",
        ("Seen by the guide", "Draw with guides", "Noise to latent", "Save restored portrait"),
    ),
    "LDMGuideGreyPicture": (
        "guided-colourise",
        ("Known: it is grey", "Grey portrait", "Save coloured portrait"),
    ),
    "LDMGuideColour": ("guided-colourise", ("Wanted colours", "Grey portrait", "Save coloured portrait")),
    "LDMGuideBlurredPicture": (
        "guided-repair",
        ("Known: blurred", "Blurred portrait", "Save repaired portrait"),
    ),
    "LDMGuideKnownPixels": (
        "guided-repair",
        ("Known: sharp pixels", "Sharp pixels", "Save repaired portrait"),
    ),
    "LDMGuideReference": ("guided-style", ("First portrait", "Like it on the whole", "Save mixed portrait")),
    "LDMGuideStyle": ("guided-style", ("In the style of the other", "Second portrait", "Save mixed portrait")),
    "LDMCodeView": ("code-view", ("Codes of the latent", "Codes", "Distance to the nearest code")),
}
NODE_WIDTH = 310
PICTURE_HEIGHT = 300  # of a node that shows images
MARGIN = 45
TITLE_HEIGHT = 30
GAP = 75  # between two nodes of the column; holds a title
LEFT, TOP = 300, 250  # of the column in the window, clear of the editor's own panels
OUT_OF_SIGHT = 2000

# The chosen nodes in one column; what feeds them far to the left, what comes after them far to the right. Wires that
# pass by are not drawn.
_ARRANGE = """([titles, width, pictureHeight, gap, away]) => {
  const shown = titles.map((title) => app.graph.nodes.find((node) => node.title === title))
  const first = Math.min(...shown.map((node) => node.order))
  let y = 0
  for (const node of shown) {
    const large = node.imgs?.length || node.type === 'PreviewAny'
    node.setSize([width, large ? pictureHeight : node.computeSize()[1]])
    node.pos = [0, y]
    y += node.size[1] + gap
  }
  for (const node of app.graph.nodes) {
    if (!shown.includes(node)) node.pos = [node.order < first ? -away : away, node.order * 40]
  }
  const links = app.graph.links
  for (const link of window.hiddenLinks) links.set(link.id, link)
  const passing = (link) => !shown.some((node) => [link.origin_id, link.target_id].includes(node.id))
  window.hiddenLinks = [...links.values()].filter(passing)
  for (const link of window.hiddenLinks) links.delete(link.id)
  app.graph.groups.length = 0
  app.canvas.deselectAll()
  app.canvas.ds.scale = 1
  app.canvas.ds.offset = [LEFT, TOP]
  app.canvas.setDirty(true, true)
  return y - gap
}""".replace("LEFT", str(LEFT)).replace("TOP", str(TOP))
_PICTURES_SHOWN = """(titles) => titles.every((title) => {
  const node = app.graph.nodes.find((node) => node.title === title)
  if (!app.nodeOutputs[node.id]?.images) return true
  return node.imgs?.length && node.imgs.every((img) => img.naturalWidth > 0)
})"""

_ANIMATION = """(titles) => {
  const last = app.graph.nodes.find((node) => node.title === titles.at(-1))
  const [file] = app.nodeOutputs[last.id]?.images ?? []
  if (!file?.filename.endsWith('.webp')) return null
  return new URL(comfyAPI.api.api.apiURL('/view?' + new URLSearchParams(file)), location).href
}"""


def shoot(page: Page, titles: tuple[str, ...]) -> Image.Image:
    """The chosen nodes of the graph that is open, one below the other."""
    arguments = [titles, NODE_WIDTH, PICTURE_HEIGHT, GAP, OUT_OF_SIGHT]
    page.evaluate(_ARRANGE, arguments)
    page.wait_for_function(_PICTURES_SHOWN, arg=titles)  # the editor fetches what comes into sight
    height = page.evaluate(_ARRANGE, arguments)
    page.wait_for_timeout(500)  # and draws it at its next frames
    canvas = page.locator("#graph-canvas").bounding_box()
    if canvas is None:
        raise SystemExit("the editor shows no canvas")
    clip = {
        "x": canvas["x"] + LEFT - MARGIN,
        "y": canvas["y"] + TOP - TITLE_HEIGHT - MARGIN / 2,
        "width": NODE_WIDTH + 2 * MARGIN,
        "height": TITLE_HEIGHT + height + MARGIN,
    }
    picture = Image.open(io.BytesIO(page.screenshot(clip=clip))).convert("RGB")  # pyright: ignore[reportArgumentType]
    animation = page.evaluate(_ANIMATION, titles)
    return with_frames(picture, page.request.get(animation).body()) if animation else picture


def with_frames(picture: Image.Image, animation: bytes) -> Image.Image:
    """The picture with frames of an animation below it, since it shows only one of them."""
    film = Image.open(io.BytesIO(animation))
    count, side = 5, picture.width // 5
    together = Image.new("RGB", (picture.width, picture.height + side))
    together.paste(picture)
    for place in range(count):
        film.seek(round(place * (film.n_frames - 1) / (count - 1)))  # pyright: ignore[reportAttributeAccessIssue]
        together.paste(film.convert("RGB").resize((side, side)), (place * side, picture.height))
    return together


def main(chosen: list[str]) -> None:
    """Take the pictures of these nodes, or of all."""
    snippets = {node_id: SNIPPETS[node_id] for node_id in chosen or SNIPPETS}
    with editor(1000, 1500) as page:
        for template, group in groupby(snippets.items(), lambda item: item[1][0]):
            load(page, json.loads((PACK_ROOT / "workflows" / f"{template}.json").read_text()))
            page.evaluate("() => { window.hiddenLinks = [] }")
            run(page)
            for node_id, (_, titles) in group:
                target = PACK_ROOT / "web" / "docs" / "images" / f"{node_id}.jpg"
                shoot(page, titles).save(target, quality=88, optimize=True)
                print(target.relative_to(PACK_ROOT))  # noqa: T201


if __name__ == "__main__":
    main(sys.argv[1:])
