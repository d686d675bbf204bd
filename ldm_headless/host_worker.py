"""A private host as a worker of a pool: prompts in, images out. Imports the client, private_host and host_install."""

from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

from .client import ComfyClient
from .host_install import find_host
from .private_host import PrivateHost
from .workflow import Prompt


class HostWorker:
    """One ComfyUI of its own and a client of it; takes one prompt at a time.

    Give a pool of these `in_flight=1`: the host ends with the thread that starts it, so calls must not have threads of
    their own.

    Args:
        packs: Folder name in `custom_nodes` -> pack, on the machine of the worker. COMFYUI_PATH is that machine's, too.

    Raises:
        HostError: The host is not installed there or does not start.
    """

    def __init__(self, packs: Mapping[str, Path]) -> None:
        self._stack = ExitStack()
        host = self._stack.enter_context(PrivateHost(find_host(), packs))
        self._client = self._stack.enter_context(ComfyClient(host.url))

    def __call__(self, prompt: Prompt) -> list[tuple[str, bytes]]:
        """Run a prompt: the host's file name and the bytes of each image.

        Raises:
            HeadlessError: What `ComfyClient.submit`, `follow` and `fetch` raise.
        """
        prompt_id = self._client.submit(prompt)
        self._client.follow(prompt_id)
        refs = self._client.outputs(prompt_id)
        return [(ref.filename, self._client.fetch(ref)) for ref in refs]

    def stop(self) -> None:
        """End the host."""
        self._stack.close()
