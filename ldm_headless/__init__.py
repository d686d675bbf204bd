"""Runs ComfyUI workflows without a browser: a client, a private host, workflow files and the `ldm` command.

    with PrivateHost(find_host(), packs={"comfyui-ldm": PACK_ROOT}) as host, ComfyClient(host.url) as client:
        prompt_id = client.submit(load_workflow("workflows/api/demo.json"))
        client.follow(prompt_id)
        png = client.fetch(client.outputs(prompt_id)[0])

Read on in this order: errors, client, workflow, private_host (with host_install), run, cli. Speaks HTTP to the host and
imports neither the host nor torch.
"""

from .client import ComfyClient, Event, ImageRef
from .errors import HeadlessError
from .host_install import PACK_ROOT, HostLocation, find_host, install_host
from .private_host import PrivateHost
from .run import run_workflow
from .workflow import load_workflow

__all__ = [
    "PACK_ROOT",
    "ComfyClient",
    "Event",
    "HeadlessError",
    "HostLocation",
    "ImageRef",
    "PrivateHost",
    "find_host",
    "install_host",
    "load_workflow",
    "run_workflow",
]
