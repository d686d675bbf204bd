"""Runs ComfyUI workflows without a browser: a client, a private host, workflow files and the `ldm` command.

    with PrivateHost(find_host(), packs={"comfyui-ldm": PACK_ROOT}) as host, ComfyClient(host.url) as client:
        prompt_id = client.submit(to_prompt(load_workflow("workflows/demo.json"), client.object_info()))
        client.follow(prompt_id)
        png = client.fetch(client.outputs(prompt_id)[0])

Read on in this order: errors, async_client (with protocol and event_socket), client, workflow (with embedded),
ui_export (with ui_graph, editors, widget_types, dynamic_inputs, node_types, ui_instances, promoted_values,
ui_unfolding, ui_primitives, text_widgets), overrides, sweep, private_host (with host_install, torch_probe and
scratch_folder), plan, validation, output_folder (with atomic_files, journal and output_names), report, run_record,
runner, pool_runner (with worker_pool, ray_pool and host_worker), run_command, cli.
Speaks HTTP to the host and imports neither the host nor torch.
"""

from .async_client import AsyncComfyClient
from .client import ComfyClient
from .errors import HeadlessError
from .events import Event
from .history import ImageRef
from .host_install import PACK_ROOT, HostLocation, find_host, install_host
from .private_host import PrivateHost
from .protocol import Queue
from .workflow import load_workflow, to_prompt

__all__ = [
    "PACK_ROOT",
    "AsyncComfyClient",
    "ComfyClient",
    "Event",
    "HeadlessError",
    "HostLocation",
    "ImageRef",
    "PrivateHost",
    "Queue",
    "find_host",
    "install_host",
    "load_workflow",
    "to_prompt",
]
