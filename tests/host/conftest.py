"""Clients of the one real ComfyUI."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from ldm_headless import ComfyClient, ImageRef, PrivateHost

RunPrompt = Callable[..., list[ImageRef]]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Everything in this folder drives a host."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.host)


@pytest.fixture
def client(host: PrivateHost) -> Iterator[ComfyClient]:
    """A fresh client of the host."""
    with ComfyClient(host.url) as connected:
        yield connected


@pytest.fixture
def run_prompt(client: ComfyClient) -> RunPrompt:
    """Runs an API-format prompt to its end and returns its images; raises what the host reports."""

    def run(prompt: Mapping[str, Any], extra_data: Mapping[str, Any] | None = None) -> list[ImageRef]:
        prompt_id = client.submit(prompt, extra_data)
        client.follow(prompt_id)
        return client.outputs(prompt_id)

    return run
