"""What the scripts of this folder share: the editor in Chromium on a private host, a graph in it, and a run of it."""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from playwright.sync_api import Page, sync_playwright

from ldm_headless import PACK_ROOT, PrivateHost, find_host

sys.path.append(str(PACK_ROOT / "tests" / "support" / "editor"))  # the editor is opened as the browser tests open it
from editor_page import Editor  # noqa: E402

_RUN = """() => new Promise((done) => {
  const ended = ['execution_success', 'execution_error', 'execution_interrupted']
  for (const name of ended) comfyAPI.api.api.addEventListener(name, () => done(name), {once: true})
  app.queuePrompt(0)
})"""


@contextmanager
def editor(width: int, height: int) -> Iterator[Page]:
    """The editor with an empty graph, in a window of this size.

    Raises:
        SystemExit: there is no Chromium.
    """
    chromium = shutil.which("chromium")
    if chromium is None:
        raise SystemExit("These pictures are taken in Chromium: apt-get install chromium")
    with (
        tempfile.TemporaryDirectory(prefix="ldm-pictures-") as base,
        PrivateHost(
            find_host(), {"comfyui-ldm": PACK_ROOT}, Path(base), required_nodes=["LDMCheckpointLoader"]
        ) as host,
        sync_playwright() as playwright,
    ):
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        page = Editor(browser, host.url, Path(base)).page
        page.set_viewport_size({"width": width, "height": height})
        banner = page.locator(
            "button:has(.pi-times), button:has(.icon-\\[lucide--x\\])"
        ).first  # of the frontend's news
        if banner.is_visible():
            banner.click()
        yield page
        browser.close()


def run(page: Page) -> None:
    """Queue the graph that is open, and wait until it has run.

    Raises:
        SystemExit: the graph did not run to its end.
    """
    page.set_default_timeout(600_000)
    ended = page.evaluate(_RUN)
    if ended != "execution_success":
        raise SystemExit(f"the graph ended with {ended}")


def load(page: Page, graph: Any) -> None:
    """Open a graph in the format of the editor."""
    page.evaluate("async (graph) => { await app.loadGraphData(graph) }", graph)
