"""What the host's HTTP API and WebSocket are asked and answer, without any I/O. Imports answers and the errors."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ldm_backend.errors import printable

from ..errors import NodeError, PromptRejectedError, ServerError
from .answers import a_list, a_number, a_text, an_object
from .transport import Answer

# Without this the host sends previews that do not say which node they belong to.
HELLO = '{"type": "feature_flags", "data": {"supports_preview_metadata": true}}'


@dataclass(frozen=True)
class Queue:
    """Ids of the prompts that run, and of those that wait, the next first."""

    running: tuple[str, ...]
    pending: tuple[str, ...]

    def __contains__(self, prompt_id: object) -> bool:
        return prompt_id in self.running or prompt_id in self.pending

    def __iter__(self) -> Iterator[str]:
        yield from self.running + self.pending

    def __len__(self) -> int:
        return len(self.running) + len(self.pending)


def check_status(answer: Answer, accept: tuple[int, ...], text: str) -> Answer:
    """Return the answer if its status is expected.

    Args:
        answer: Of the server.
        accept: Statuses that are expected.
        text: What it said, without secrets.

    Raises:
        ServerError: It is not.
    """
    if answer.status in accept:
        return answer
    hint = "; look into the server's log"
    if answer.status in (401, 403):
        hint = "; it wants to know who you are: give a token by LDM_SERVER_TOKEN, or a header by --header-file"
    if 300 <= answer.status < 400:
        hint = "; it leads elsewhere, maybe to a login: give the address that it leads to, or set LDM_SERVER_TOKEN"
    said = printable(" ".join(text.split()), 200) or "no text"
    raise ServerError(f"{answer.where} answered {answer.status} {printable(answer.reason)}: {said}{hint}")


def parse_submission(answer: Mapping[str, Any], source: str) -> tuple[str, PromptRejectedError | None]:
    """What the host said to POST /prompt.

    Args:
        answer: Its JSON.
        source: Who answered, for messages.

    Returns:
        The id of the queued prompt, and why half of it was refused: the host queues the valid outputs and drops the
        others.

    Raises:
        PromptRejectedError: Nothing was queued.
        ServerError: This is no answer of a ComfyUI.
    """
    errors = _node_errors(answer)
    rejection = PromptRejectedError(errors) if errors else None
    if "prompt_id" in answer:
        return a_text(answer["prompt_id"], f"the prompt id of {source}", 200), rejection
    raise rejection or ServerError(
        f"{source}/prompt answered neither a prompt id nor a reason; is this a ComfyUI? Check the address"
    )


def _node_errors(answer: Mapping[str, Any]) -> tuple[NodeError, ...]:
    """Every reason in an answer of POST /prompt; the general one only if no node is to blame."""
    by_node = answer.get("node_errors")
    by_node = {} if by_node == [] else an_object(by_node, "the answer's node_errors")  # an empty list without errors
    found = [
        _node_error(printable(node_id), info.get("class_type"), an_object(error, "an error of a node"))
        for node_id, entry in by_node.items()
        for info in [an_object(entry, "the errors of a node")]
        for error in a_list(info.get("errors"), "the errors of a node")
    ]
    general = answer.get("error")
    if not found and isinstance(general, dict):
        extra = an_object(general.get("extra_info"), "the answer's extra_info")
        node_id = a_text(extra.get("node_id") or "", "the answer's node_id")
        found = [_node_error(node_id, extra.get("class_type"), general)]
    elif not found and isinstance(general, str) and "prompt_id" not in answer:
        found = [_node_error("", None, {"type": "error", "message": general})]
    return tuple(found)


def _node_error(node_id: str, class_type: Any, error: Mapping[str, Any]) -> NodeError:
    class_type, kind, message, details = (
        a_text(value or default, "an error of a node")
        for value, default in (
            (class_type, "?"),
            (error.get("type"), "error"),
            (error.get("message"), "no message"),
            (error.get("details"), ""),
        )
    )
    return NodeError(node_id, class_type, kind, message, details)


def parse_queue(answer: Mapping[str, Any]) -> Queue:
    """The answer of GET /queue: items of (number, prompt id, prompt, ...), those that wait in the order of a heap.

    Raises:
        ServerError: It is no queue.
    """
    running, pending = (_queue_items(answer, part) for part in ("queue_running", "queue_pending"))
    return Queue(tuple(name for _, name in running), tuple(name for _, name in sorted(pending)))


def _queue_items(answer: Mapping[str, Any], part: str) -> Iterator[tuple[int | float, str]]:
    for item in a_list(answer.get(part), f"the {part} of GET /queue"):
        entry = a_list(item, f"an item of {part}")
        if len(entry) < 2:
            raise ServerError(
                f"an item of {part} has {len(entry)} parts; expected a number and a prompt id; check the address"
            )
        yield a_number(entry[0], f"the number of an item of {part}"), a_text(entry[1], f"an id of {part}", 200)


def parse_queue_length(answer: Mapping[str, Any]) -> int:
    """How many prompts run or wait, from the answer of GET /prompt.

    Raises:
        ServerError: It does not say.
    """
    try:
        return int(a_number(answer["exec_info"]["queue_remaining"], "queue_remaining"))
    except (KeyError, TypeError, ServerError) as error:
        raise ServerError(
            "GET /prompt did not tell the length of the queue; is this a ComfyUI? Check the address"
        ) from error


def parse_descriptions(answer: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The answer of GET /object_info: node id -> description, without those that describe no node.

    A pack can describe its nodes in any way; one that is broken costs only its own.

    Raises:
        ServerError: It describes no node at all.
    """
    found = {name: entry for name, entry in answer.items() if _describes_a_node(entry)}
    if answer and not found:
        raise ServerError(
            "GET /object_info describes no node as ComfyUI does; is this a ComfyUI server? Check the address"
        )
    return found


def _describes_a_node(entry: Any) -> bool:
    if not isinstance(entry, dict):
        return False
    groups, order = entry.get("input") or {}, entry.get("input_order") or {}
    if not isinstance(entry.get("output") or [], list) or not isinstance(groups, dict) or not isinstance(order, dict):
        return False
    names = [name for group in order.values() for name in (group if isinstance(group, list) else [None])]
    specs = [groups.get(group) or {} for group in ("required", "optional")]
    return (
        all(isinstance(name, str) for name in names)
        and all(isinstance(group, dict) for group in specs)
        and all(_describes_an_input(spec) for group in specs for spec in group.values())
    )


def _describes_an_input(spec: Any) -> bool:
    """A list of the type, or of a list of choices, and maybe of options."""
    if not isinstance(spec, list) or not spec or not isinstance(spec[0], str | list):
        return False
    options = spec[1] if len(spec) > 1 else {}
    if not isinstance(options, dict):
        return False
    numbers = (options.get(name) for name in ("min", "max"))
    return all(value is None or (isinstance(value, int | float)) for value in numbers)
