"""The real editor in a real Chromium, on a private host. What is missing is a failure, not a reason to skip."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from editor_page import Editor
from playwright.sync_api import Browser, Page, sync_playwright

from ldm_headless import PACK_ROOT, ComfyClient, PrivateHost

SCREENSHOTS = PACK_ROOT / "output" / "browser"


def pytest_addoption(parser: pytest.Parser) -> None:
    """`pytest tests/browser --record-exports` writes tests/data/exports anew, from the graphs in it."""
    parser.addoption("--record-exports", action="store_true", help="record the editor's exports instead of comparing")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Everything in this folder needs a browser."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.browser)


@pytest.fixture(scope="session")
def object_info(host: PrivateHost) -> dict[str, Any]:
    """The host's description of its nodes."""
    with ComfyClient(host.url) as client:
        return client.object_info()


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """Chromium of the system: `chromium` on the PATH, or what CHROMIUM names."""
    found = shutil.which(os.environ.get("CHROMIUM") or "chromium")
    if found is None:
        pytest.fail("no Chromium: `apt-get install chromium`, or set CHROMIUM to the program", pytrace=False)
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=found, args=["--no-sandbox", "--disable-gpu"])
        yield running
        running.close()


@pytest.fixture
def editor(browser: Browser, host: PrivateHost) -> Iterator[Editor]:
    """A fresh page of the editor, ready. Afterwards it must be without faults."""
    opened = Editor(browser, host.url, SCREENSHOTS)
    yield opened
    opened.close()


@pytest.fixture
def page(editor: Editor) -> Page:
    """The page of `editor`."""
    return editor.page


@pytest.fixture(scope="module")
def shared_editor(browser: Browser, host: PrivateHost) -> Iterator[Editor]:
    """As `editor`, one for all tests of a file: for tests that load a graph of their own each."""
    opened = Editor(browser, host.url, SCREENSHOTS)
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def shared_page(browser: Browser, host: PrivateHost) -> Iterator[Page]:
    """A page for graphs of others too, whose errors do not count: only those that name the pack."""
    opened = Editor(browser, host.url, SCREENSHOTS)
    yield opened.page
    opened.faults[:] = [fault for fault in opened.faults if "ldm" in fault.lower()]
    opened.close()
