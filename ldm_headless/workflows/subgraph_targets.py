"""Widgets on subgraphs' nodes as targets: `Upscale.steps` by the title of the subgraph's node, as the editor shows it.

A prompt has only what is inside. Imports overrides, targets, workflow, the promoted places of ui_format and the errors.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from ldm_backend.errors import first_names, printable

from ..errors import WorkflowError
from ..ui_format.promoted_places import SubgraphNode, subgraph_nodes
from .overrides import nodes_by_title
from .targets import parse_target, quoted_target
from .workflow import Prompt, Workflow


def resolve_targets(
    targets: Iterable[str], workflow: Workflow, prompt: Prompt, object_info: Mapping[str, Any]
) -> dict[str, tuple[str, ...]]:
    """What to set instead of each target that names an input of a subgraph's node by its id or title.

    Args:
        targets: As `--set` takes them.
        workflow: Its graph tells what the subgraphs are.
        prompt: That of the workflow.
        object_info: The host's description of its nodes.

    Returns:
        Target -> targets inside. Those that name nodes of the prompt, or nothing, are left out.

    Raises:
        WorkflowError: A target may mean several things, or something inside that does not run.
    """
    wanted = {target: parse_target(target) for target in targets if target != "seed"}
    wanted = {target: (node, name) for target, (node, name) in wanted.items() if node not in prompt}
    if workflow.ui is None or not wanted:
        return {}
    titles = nodes_by_title(prompt)
    try:
        subgraphs = subgraph_nodes(workflow.ui, object_info, workflow.source)
    except WorkflowError:
        return {}  # a graph of another host beside the prompt, whose own nodes can be set all the same
    by_name: dict[str, list[SubgraphNode]] = {}
    for subgraph in subgraphs:
        for known_as in {subgraph.path, subgraph.title}:
            by_name.setdefault(known_as, []).append(subgraph)
    found = {}
    for target, (node, name) in wanted.items():
        with_input = [node_id for node_id in titles.get(node, ()) if name in prompt[node_id]["inputs"]]
        candidates = by_name.get(node, [])
        if candidates and (not titles.get(node) or any(name in each.inputs for each in candidates)):
            found[target] = _inside(target, name, candidates, with_input, prompt)
    return found


def _inside(
    target: str, name: str, candidates: list[SubgraphNode], with_input: list[str], prompt: Prompt
) -> tuple[str, ...]:
    able = [each for each in candidates if name in each.inputs]
    if not able:
        names = sorted({each for candidate in candidates for each in candidate.inputs})
        raise WorkflowError(
            f"the subgraph of {printable(target)!r} has no widget {printable(name)!r}; it has "
            f"{first_names(names, 50) or 'none'}; correct the name"
        )
    if len(able) > 1 or with_input:
        ids = [each.path for each in able] + with_input
        raise WorkflowError(f"{printable(target)!r} may mean the nodes {first_names(ids)}; use one of these ids")
    meanings = able[0].inputs[name]
    places = sorted(place for place in meanings[0] if place[0] in prompt)
    if len(meanings) > 1:
        inside = [".".join(place) for each in meanings for place in sorted(each)]
        raise WorkflowError(f"{printable(target)!r} may mean {first_names(inside)}; use one of these")
    if not places:
        raise WorkflowError(
            f"{printable(target)!r} leads to nodes that do not run: they are muted or bypassed; set them to Always "
            "in the editor"
        )
    return tuple(quoted_target(*place) for place in places)
