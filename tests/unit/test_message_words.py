"""Every message of the error family, read off the source: what was found, what was expected, what to do.

Rules for each place where an error of the family is made, in the backend, the command and the nodes:
- found: the message holds a value (an interpolation), or names an option or a key.
- way out: it says what to do, in the imperative. Of what somebody gives as an argument, an option or a wire, it is
  enough to say what is expected: to give that is the way out. Of files and servers it is not. There is none for a file
  that is "refused", as no program that is sane writes it.

A message may be put together from constants and from functions of its module; those are read too.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from false_leads import FALSE_LEADS, leads_nowhere

from ldm_backend import errors as backend_errors
from ldm_backend.checkpoints.first_stage import load_first_stage
from ldm_backend.errors import LDMError
from ldm_headless import errors as headless_errors

ROOT = Path(__file__).parents[2]
PACKAGES = ("ldm_backend", "ldm_headless", "nodes")
# Errors about files and servers, for which the way out is not just another value.
OF_FILES = {"CheckpointError", "ConfigError", "SaveError", "HostError", "ServerError", "OutputFileError"}
# Parts of messages: whoever catches these says of which file they are and what to do; a lost worker is replaced.
PARTS = {"JSONError", "WorkerLostError"}

VERBS = (
    r"add|allow|answer|begin|build|call|change|check|choose|connect|convert|copy|correct|crop|decode|delete|download|"
    r"drop|export|free|give|install|keep|leave|link|load|look|make|mend|move|name|open|pass|pick|pip|put|"
    r"remove|rename|repeat|replace|resize|restart|run|save|say|see|set|split|start|submit|take|try|unmute|"
    r"update|upgrade|use|verify|wait|write"
)
WAY_OUT = re.compile(rf"(?:^|[.;:,?(]\s|\bor |\band |\bthen |--\w+ )`?(?:{VERBS})\b", re.IGNORECASE)
FOUND = re.compile(r"\{|--\w|GET /|\b[a-z]+_[a-z_]+\b|\bis empty\b")
EXPECTED = re.compile(r"\b(?:expected|expects|supported|needs?|takes?|at most|at least|ends at|must)\b")

# Messages that lack a part on purpose, by how they begin, and the reason.
PASSED_ON = "says more of where what another error of the family says is"
SAYS = "its way out is made elsewhere"
A_WIRE = "what was found is what is on the wire, and it is named"
EXCEPTIONS = {
    "{str(error)}": PASSED_ON,
    "{file}: {error}": PASSED_ON,
    "{source}: {error}": PASSED_ON,
    "{source}{text}": PASSED_ON,
    "{message.format(first_names([file.name for file in found]))}": SAYS,
    "{source}: {key} is {short_repr(value)}; supported is {' or '.join(map(repr, allowed))}. {reason}": SAYS,
    "no ComfyUI at {path}": SAYS,
    "{answer.where} answered {answer.status}": SAYS,
    "the private host went away: {error}": SAYS,
    "{tuple(problems)}": SAYS,
    "{errors}": SAYS,
    "Nothing was saved: what was about to be written could not be loaded again. {reason}": PASSED_ON,
    "{instance}: {instance.surplus}": SAYS,
    "no private ComfyUI can work in": SAYS,
    "a worker failed:": "the trace of the worker says it; what failed is a fault of this project",
    "no reason was given": "stands for an error where there is none",
    "nobody ran them": "stands for an error where there is none",
    "{len(failed)} of {len(results)} jobs failed": "the command to repeat is the one that was given",
    "{*(a_text(": "the node that failed says it",
    "while prompt {prompt_id} was waiting or running: {error}": PASSED_ON,
    "{instance}: input {kind.name}: {error}": PASSED_ON,
    "node {path} ({node.title or node.type}): {error}": PASSED_ON,
    "{workflow.source}: {printable(str(error), 1000)}": PASSED_ON,
    "the private host is not running": A_WIRE,
    "The two latents are ": A_WIRE,
    "This first stage is a KL autoencoder": A_WIRE,
    "The images hold NaN or infinity": A_WIRE,
    "The latent holds NaN or infinity": A_WIRE,
    "vae: the VAE is not the one that this MODEL was trained with": A_WIRE,
    "{name}: {error}": PASSED_ON,
    "The sampler adds noise at each step, but the run has no seed": A_WIRE,
}


@dataclass(frozen=True)
class Message:
    """One place where an error of the family is made.

    Attributes:
        place: File and line.
        error: Its class.
        text: What is written there; interpolations in braces.
        parts: Texts of the constants and functions that it is put together from.
    """

    place: str
    error: str
    text: str
    parts: tuple[str, ...]

    @property
    def whole(self) -> str:
        return ". ".join((self.text, *self.parts))


def template(node: ast.AST) -> str:
    """A string expression as a text, values in braces."""
    if isinstance(node, ast.Constant):
        return str(node.value) if isinstance(node.value, str) else ""
    if isinstance(node, ast.JoinedStr):
        return "".join(template(part) for part in node.values)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return template(node.left) + template(node.right)
    if isinstance(node, ast.FormattedValue):
        return "{" + ast.unparse(node.value) + "}"
    return "{" + ast.unparse(node) + "}"


def texts_of(node: ast.AST) -> list[str]:
    """All string templates in a piece of code, the longest of nested ones; no docstrings."""
    if isinstance(node, ast.JoinedStr) or (isinstance(node, ast.Constant) and isinstance(node.value, str)):
        return [template(node)]
    children = (child for child in ast.iter_child_nodes(node) if not isinstance(child, ast.Expr))
    return [text for child in children for text in texts_of(child)]


def constants() -> dict[str, str]:
    """Names of the modules' string constants -> their texts, tables of strings joined."""
    found: dict[str, str] = {}
    for file in sources():
        for node in ast.parse(file.read_text()).body:
            if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
                found[node.targets[0].id] = " ".join(texts_of(node.value))
    return {name: _resolved(text, found) for name, text in found.items()}


def _resolved(text: str, found: dict[str, str]) -> str:
    """A constant's text with the other constants that it holds."""
    return re.sub(r"\{([A-Z_]+)\}", lambda match: found.get(match[1], match[0]), text)


def sources() -> Iterator[Path]:
    for package in PACKAGES:
        yield from sorted((ROOT / package).rglob("*.py"))


def family() -> set[str]:
    """Names of the classes, those outside of the two modules of errors too."""
    modules = (backend_errors, headless_errors)
    kinds = {kind for module in modules for kind in vars(module).values() if isinstance(kind, type)}
    names = {kind.__name__ for kind in kinds if issubclass(kind, LDMError)}
    for file in sources():
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.ClassDef) and names & {ast.unparse(base) for base in node.bases}:
                names.add(node.name)
    return names


def messages() -> Iterator[Message]:
    """Where errors of the family are made, in the order of the files."""
    named = constants()
    for file in sources():
        tree = ast.parse(file.read_text())
        functions = {node.name: node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
        for node in ast.walk(tree):
            if not isinstance(node, ast.Call) or (error := ast.unparse(node.func)) not in FAMILY:
                continue
            names = {
                ast.unparse(it).rpartition(".")[2] for it in ast.walk(node) if isinstance(it, ast.Name | ast.Attribute)
            }
            parts = [named[name] for name in sorted(names & named.keys())]
            for name in sorted(names & functions.keys()):
                parts += texts_of(ast.Module(functions[name].body, []))
            text = " ".join(template(argument) for argument in node.args)
            yield Message(f"{file.relative_to(ROOT)}:{node.lineno}", error, text, tuple(parts))


def lacks(message: Message) -> list[str]:
    """Which parts a message lacks."""
    missing = []
    if not FOUND.search(message.whole):
        missing.append("found")
    says = WAY_OUT.search(message.whole) or ": refused: " in message.text
    if not says and (message.error in OF_FILES or not EXPECTED.search(message.whole)):
        missing.append("way out")
    return missing


FAMILY = family()
ALL = list(messages())


def test_the_source_is_read():
    assert len(ALL) > 300
    assert {message.error for message in ALL} <= FAMILY
    assert "while its weights were in use" in " ".join(message.text for message in ALL)


def test_every_message_says_what_was_found_and_what_to_do():
    poor = {
        f"{message.place} {message.error} lacks {' and '.join(lacks(message))}: {message.text}"
        for message in ALL
        if message.error not in PARTS and lacks(message) and not message.text.startswith(tuple(EXCEPTIONS))
    }
    assert not poor, "\n".join(sorted(poor))


@pytest.mark.parametrize("text", EXCEPTIONS)
def test_every_exception_is_still_one(text):
    assert any(message.text.startswith(text) and lacks(message) for message in ALL)


def test_no_interpolation_was_forgotten():
    """A constant in braces inside a plain text."""
    assert not [
        message
        for message in ALL
        for name in re.findall(r"\{([A-Z_]{3,})\}", message.text)
        if f"{{{name}}}" in plain(message)
    ]


def plain(message: Message) -> str:
    """The plain texts of a message's place."""
    file, _, line = message.place.partition(":")
    nodes = ast.walk(ast.parse((ROOT / file).read_text()))
    node = next(node for node in nodes if isinstance(node, ast.Call) and node.lineno == int(line))
    return " ".join(it.value for it in ast.walk(node) if isinstance(it, ast.Constant) and isinstance(it.value, str))


def test_no_message_leads_nowhere():
    """Those that a test provokes are read by `provoked_messages` of conftest.py, as they come out."""
    assert not [message for message in ALL if leads_nowhere(message.whole)]


def test_provoked_messages_are_read(provoked_messages):
    with pytest.raises(LDMError) as error:
        load_first_stage("nowhere.ckpt")
    assert provoked_messages[-1] == str(error.value)
    assert not leads_nowhere(str(error.value))
    for message in ("", "x is <object object at 0x7f00aa11bb22>", f"a: {FALSE_LEADS[0]}."):
        assert leads_nowhere(message)
