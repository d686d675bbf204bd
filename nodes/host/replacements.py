"""Nodes that were called otherwise in earlier versions: hosts that know of replacements run old workflows with them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from comfy_api.latest import ComfyAPI, io


@dataclass(frozen=True)
class Renamed:
    """What became of a node of an earlier version.

    Attributes:
        old: Its id then.
        new: The id of the node in its place, whose outputs are in the same order.
        widgets: Names of its widgets then, in the order in which workflows keep their values.
        inputs: Name of an input now -> its name then, for all inputs of the old node.
    """

    old: str
    new: str
    widgets: tuple[str, ...] = ()
    inputs: Mapping[str, str] = field(default_factory=dict)


async def register_renamed(renamed: Iterable[Renamed]) -> None:
    """Tell the host, if it is new enough to ask; older ones call such a node missing."""
    replace = getattr(io, "NodeReplace", None)
    registry = getattr(ComfyAPI(), "node_replacement", None)
    if replace is None or registry is None:
        return
    for node in renamed:
        mapping = [{"new_id": new, "old_id": old} for new, old in node.inputs.items()]
        await registry.register(replace(node.new, node.old, list(node.widgets), mapping))
