"""The moving picture of the README: a graph built by hand in the editor, from search to portrait.

`python docs/pictures/tour.py` writes web/docs/images/tour.webp. Everything in it is done with the mouse and the
keyboard, as a visitor would; only the widgets are set at once, and the waiting is cut.
"""

from __future__ import annotations

import io

from editor import editor
from PIL import Image
from playwright.sync_api import Page

from ldm_headless import PACK_ROOT

TARGET = PACK_ROOT / "web" / "docs" / "images" / "tour.webp"
WINDOW = (1180, 640)
SHOWN_WIDTH = 900  # of the picture
SCALE = 0.8
# What is searched for, its type, where it is placed in the window.
NODES = (
    ("LDM Checkpoint Loader", "LDMCheckpointLoader", (90, 190)),
    ("LDM Latent Noise", "LDMLatentNoise", (90, 400)),
    ("LDM DDIM Sampler", "LDMDDIMSampler", (395, 290)),
    ("LDM VQ Decode", "LDMVQDecode", (665, 190)),
    ("Preview Image", "PreviewImage", (880, 190)),
)
# From an output to an input: type, slot, type, slot.
WIRES = (
    ("LDMCheckpointLoader", 0, "LDMDDIMSampler", 0),
    ("LDMLatentNoise", 0, "LDMDDIMSampler", 1),
    ("LDMCheckpointLoader", 1, "LDMVQDecode", 0),
    ("LDMDDIMSampler", 0, "LDMVQDecode", 1),
    ("LDMVQDecode", 0, "PreviewImage", 0),
)
# The demo draws portraits of 128 x 128 pixels; fifty steps keep the film short.
WIDGETS = {
    "LDMLatentNoise": {"seed": 20, "control_after_generate": "fixed", "width": 128, "height": 128},
    "LDMDDIMSampler": {"steps": 50},
}
# By how much a node's corner is dragged: the title and the picture need room.
STRETCHED = {"LDMVQDecode": (65, 0), "PreviewImage": (140, 190)}

_POINTER = """() => {
  const arrow = document.createElement('div')
  arrow.innerHTML = '<svg width="22" height="22" viewBox="0 0 22 22"><path d="M3 2v15l4-4 3 7 3-1-3-7h6z"'
    + ' fill="white" stroke="black" stroke-width="1.2"/></svg>'
  arrow.style.cssText = 'position:fixed;left:0;top:0;z-index:99999;pointer-events:none'
  document.body.append(arrow)
  const follow = (event) => arrow.style.transform = `translate(${event.clientX - 3}px,${event.clientY - 2}px)`
  for (const name of ['pointermove', 'mousemove', 'dragover']) window.addEventListener(name, follow, true)
}"""
_EMPTY = """(scale) => {
  app.graph.clear()
  app.canvas.show_info = false
  app.canvas.ds.scale = scale
  app.canvas.ds.offset = [0, 0]
}"""
_CORNER = """(type) => {
  const node = app.graph.nodes.find((node) => node.type === type)
  return app.canvasPosToClientPos([node.pos[0] + node.size[0] - 3, node.pos[1] + node.size[1] - 3])
}"""
_SLOT = """([type, slot, output]) => {
  const node = app.graph.nodes.find((node) => node.type === type)
  return app.canvasPosToClientPos(output ? node.getOutputPos(slot) : node.getInputPos(slot))
}"""
_SET = """([type, values]) => {
  const node = app.graph.nodes.find((node) => node.type === type)
  for (const widget of node.widgets) if (widget.name in values) widget.value = values[widget.name]
  app.canvas.setDirty(true, true)
}"""
_DONE = "() => app.graph.nodes.some((node) => node.imgs?.length && node.imgs[0].naturalWidth > 0)"
_WIRES = "() => app.graph.links.size"


class Film:
    """Screenshots of a page and how long each of them is seen."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.frames: list[Image.Image] = []
        self.times: list[int] = []

    def shot(self, milliseconds: int) -> None:
        """Take the next frame; one that looks as the last one makes that last longer."""
        self.page.wait_for_timeout(60)  # the editor draws at its next frame
        frame = Image.open(io.BytesIO(self.page.screenshot())).convert("RGB")
        height = round(frame.height * SHOWN_WIDTH / frame.width)
        frame = frame.resize((SHOWN_WIDTH, height), Image.Resampling.LANCZOS)
        if self.frames and frame.tobytes() == self.frames[-1].tobytes():
            self.times[-1] += milliseconds
            return
        self.frames.append(frame)
        self.times.append(milliseconds)

    def glide(self, start: tuple[float, float], end: tuple[float, float], count: int = 5) -> None:
        """Move the pointer, with a frame at each stop."""
        for stop in range(1, count + 1):
            share = stop / count
            self.page.mouse.move(*(a + (b - a) * share for a, b in zip(start, end, strict=True)))
            self.shot(70)

    def save(self) -> None:
        """Write the animation."""
        first, *rest = self.frames
        first.save(TARGET, save_all=True, append_images=rest, duration=self.times, loop=0, quality=60, method=6)


def place(film: Film, title: str, kind: str, spot: tuple[int, int]) -> None:
    """Find a node by search and put it there.

    Raises:
        SystemExit: the search gave another node.
    """
    page = film.page
    page.mouse.move(*spot)
    film.shot(150)
    page.mouse.dblclick(*spot)
    box = page.locator(".comfy-vue-node-search-container input")
    box.wait_for()
    film.shot(150)
    half = len(title) // 2
    for part in (title[:half], title[half:]):
        box.press_sequentially(part)
        page.wait_for_timeout(250)
        film.shot(200)
    page.locator(".comfy-vue-node-search-container li").first.wait_for()
    box.press("Enter")
    page.wait_for_timeout(300)
    if page.evaluate("() => app.graph.nodes.at(-1)?.type") != kind:
        raise SystemExit(f"searching for {title} placed {page.evaluate('() => app.graph.nodes.at(-1)?.type')}")
    film.shot(350)


def stretch(film: Film, kind: str, by: tuple[int, int]) -> None:
    """Drag a node's corner."""
    x, y = film.page.evaluate(_CORNER, kind)
    film.page.mouse.move(x, y)
    film.page.mouse.down()
    film.glide((x, y), (x + by[0], y + by[1]), 3)
    film.page.mouse.up()
    film.shot(150)


def wire(film: Film, source: str, output: int, target: str, slot: int) -> None:
    """Drag from an output to an input.

    Raises:
        SystemExit: no link came of it.
    """
    page = film.page
    before = page.evaluate(_WIRES)
    start, end = (
        tuple(page.evaluate(_SLOT, [kind, index, out]))
        for kind, index, out in ((source, output, True), (target, slot, False))
    )
    page.mouse.move(*start)
    film.shot(150)
    page.mouse.down()
    film.glide(start, end)
    page.mouse.up()
    film.shot(250)
    if page.evaluate(_WIRES) != before + 1:
        raise SystemExit(f"dragging from {source} to {target} made no link")


def main() -> None:
    """Record the film."""
    with editor(*WINDOW) as page:
        page.evaluate(_POINTER)
        page.evaluate(_EMPTY, SCALE)
        film = Film(page)
        film.shot(600)
        for title, kind, spot in NODES:
            place(film, title, kind, spot)
            if kind in STRETCHED:
                stretch(film, kind, STRETCHED[kind])
        for link in WIRES:
            wire(film, *link)
        for kind, values in WIDGETS.items():
            page.evaluate(_SET, [kind, values])
        film.shot(900)
        button = page.get_by_test_id("queue-button").get_by_role("button").first
        button.hover()
        film.shot(300)
        button.click()
        for _ in range(400):
            film.shot(120)
            if page.evaluate(_DONE):
                break
        film.shot(1200)
        x, y = page.evaluate(_CORNER, "PreviewImage")
        page.mouse.move(x - 60, y - 60)
        for _ in range(6):
            page.mouse.wheel(0, -100)
            film.shot(90)
        film.shot(3000)
        film.save()


if __name__ == "__main__":
    main()
