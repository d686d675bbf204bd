"""Runs ComfyUI workflows without a browser: a client, a private host, workflow files and the `ldm` command.

    with PrivateHost(find_host(), packs={"comfyui-ldm": PACK_ROOT}) as host, ComfyClient(host.url) as client:
        prompt_id = client.submit(to_prompt(load_workflow("workflows/demo.json"), client.object_info()))
        client.follow(prompt_id)
        png = client.fetch(client.outputs(prompt_id)[0])

Read on in this order: errors, client (answers, access,
transport, history with file_kinds, protocol, event_socket, async_client, sync_client), workflows (workflow with
embedded, targets, overrides, subgraph_targets, validation), carriers, ui_format (export with graph, editors,
widget_types, saved_values, dynamic_inputs, pack_widgets, node_types, group_nodes, instances, promoted_values,
promoted_places, unfolding, primitives, text_widgets), host (private_host with install, model_paths, torch_probe,
scratch_folder and held_signals; stopping), run (sweep, plan, output_folder with journal and output_names,
report, run_record, server_runner, ray_runner with private_host_worker), pools, commands, cli.
Speaks HTTP to the host and imports neither the host nor torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .client.access import Access
    from .client.async_client import AsyncComfyClient
    from .client.events import Event
    from .client.history import FileRef, ImageRef, Outputs
    from .client.protocol import Queue
    from .client.sync_client import ComfyClient
    from .errors import HeadlessError
    from .host.install import PACK_ROOT, HostLocation, find_host, install_host
    from .host.private_host import PrivateHost
    from .workflows.workflow import load_workflow, to_prompt

__all__ = [
    "PACK_ROOT",
    "Access",
    "AsyncComfyClient",
    "ComfyClient",
    "Event",
    "FileRef",
    "HeadlessError",
    "HostLocation",
    "ImageRef",
    "Outputs",
    "PrivateHost",
    "Queue",
    "find_host",
    "install_host",
    "load_workflow",
    "to_prompt",
]

# Imported at first use: the command itself must not cost what a client of servers takes to import.
_HOMES = {
    "Access": "client.access",
    "AsyncComfyClient": "client.async_client",
    "ComfyClient": "client.sync_client",
    "Event": "client.events",
    "FileRef": "client.history",
    "HeadlessError": "errors",
    "HostLocation": "host.install",
    "ImageRef": "client.history",
    "Outputs": "client.history",
    "PACK_ROOT": "host.install",
    "PrivateHost": "host.private_host",
    "Queue": "client.protocol",
    "find_host": "host.install",
    "install_host": "host.install",
    "load_workflow": "workflows.workflow",
    "to_prompt": "workflows.workflow",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_HOMES[name]}", __name__), name)
