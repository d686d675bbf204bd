"""Ray on this machine, on 127.0.0.1 only. These tests need the extra `ray`; `make test-ray` runs them."""

import importlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

# Read when ray is imported and by the processes that it starts; see ldm_headless/pools/ray_pool.py.
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Everything in this folder needs Ray."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.ray)


@pytest.fixture
def two_nodes() -> Iterator[tuple[str, Callable[[], None]]]:
    """A cluster of two nodes with one CPU each: its address, and a function that kills the second node."""
    nothing_more: dict[str, Any] = {"num_cpus": 1, "include_dashboard": False}
    cluster = importlib.import_module("ray.cluster_utils").Cluster(initialize_head=True, head_node_args=nothing_more)
    second = cluster.add_node(num_cpus=1)
    cluster.wait_for_nodes()
    yield cluster.address, lambda: cluster.remove_node(second, allow_graceful=False)
    cluster.shutdown()
