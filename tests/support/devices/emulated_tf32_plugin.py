"""`pytest -p emulated_tf32_plugin`: every test runs as on a card with TF32, see `emulated_tf32`."""

from collections.abc import Generator

import pytest
from emulated_tf32 import EmulatedTF32


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call() -> Generator[None, object, object]:
    """The test itself; what fixtures computed is not rounded."""
    with EmulatedTF32():
        return (yield)
