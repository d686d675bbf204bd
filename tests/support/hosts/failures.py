"""Graphs that must end with an error of this pack, on a real host."""

from typing import Any

import pytest

from ldm_headless import ComfyClient
from ldm_headless.errors import ExecutionError


def expect_failure(client: ComfyClient, graph: Any, node_type: str) -> str:
    """The message of our error in that node."""
    with pytest.raises(ExecutionError) as caught:
        client.follow(client.submit(graph.prompt))
    assert caught.value.node_type == node_type
    assert caught.value.exception_type.startswith("ldm_backend.errors."), caught.value
    return caught.value.exception_message
