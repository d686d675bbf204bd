"""The `ldm` command. Results go to standard output, progress and messages to standard error.

Exit codes: 0 done; 1 a node failed, the prompt was lost, or no image came; 2 wrong usage, workflow file, checkpoint or
configuration, or a model that cannot be downloaded; 3 refused by the host's validation; 4 no host or server; 130
interrupted. They stand on the headless error classes; the backend's errors, which know of no command, all mean 2.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from ldm_backend.errors import LDMError

from .checkpoint_commands import convert, download, fit_preview, inspect
from .client import ComfyClient, Event
from .errors import WorkflowError
from .host_install import PACK_ROOT, find_host, install_host
from .private_host import PrivateHost
from .run import run_workflow
from .workflow import Prompt, load_ui_workflow, load_workflow, set_inputs, ui_twin

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
_console = Console(stderr=True)


@app.callback()
def _root() -> None:
    """Run ComfyUI workflows without a browser; convert, inspect, download and preview checkpoints."""


@app.command()
def run(
    workflow: Annotated[Path, typer.Argument(help="Workflow in API format.")],
    out: Annotated[Path, typer.Option(help="Folder for the images.")] = Path("output"),
    server: Annotated[str | None, typer.Option(help="A running ComfyUI. Default: start a private one.")] = None,
    assignments: Annotated[
        list[str] | None, typer.Option("--set", metavar="NODE.INPUT=VALUE", help="Node id or title; repeatable.")
    ] = None,
) -> None:
    """Run a workflow and print the path of each image."""
    prompt = load_workflow(workflow)
    twin = ui_twin(workflow)
    if assignments:
        prompt = set_inputs(prompt, _parse_assignments(assignments))
        # The UI graph still has the old values. ComfyUI rebuilds a graph from the prompt in the image instead.
        twin = None
    ui_workflow = load_ui_workflow(twin) if twin else None
    with _client(server) as client, _progress(prompt) as on_event:
        paths = run_workflow(client, prompt, out, ui_workflow, on_event)
    for path in paths:
        typer.echo(path)


@app.command()
def install_private_host(
    directory: Annotated[Path, typer.Argument(help="Where to put ComfyUI.")] = PACK_ROOT / ".comfyui",
    constraints: Annotated[Path | None, typer.Option(help="A pip constraints file.")] = None,
) -> None:
    """Install a private ComfyUI, and its requirements into this Python environment."""
    typer.echo(install_host(directory, constraints).path)


for _command in (convert, inspect, download, fit_preview):
    app.command()(_command)


def main() -> None:
    """Entry point: errors of ours become one message and an exit code."""
    try:
        app()
    except LDMError as error:
        _console.print(f"ldm: {error}", style="red", markup=False, highlight=False, soft_wrap=True)
        sys.exit(getattr(error, "exit_code", 2))
    except KeyboardInterrupt:
        sys.exit(130)


def _parse_assignments(texts: list[str]) -> dict[str, str]:
    pairs = [text.partition("=") for text in texts]
    for text, (_, sign, _) in zip(texts, pairs, strict=True):
        if not sign:
            raise WorkflowError(f"cannot read --set {text!r}; expected NODE.INPUT=VALUE")
    return {target: value for target, _, value in pairs}


@contextmanager
def _client(server: str | None) -> Iterator[ComfyClient]:
    """A client of that server, or of a private host with this checkout as its only pack."""
    if server is not None:
        with ComfyClient(server) as client:
            client.system_stats()
            yield client
        return
    packs = {"comfyui-ldm": PACK_ROOT} if (PACK_ROOT / "__init__.py").is_file() else {}
    with ExitStack() as stack:
        with _console.status("starting a private ComfyUI"):
            host = stack.enter_context(PrivateHost(find_host(), packs))
        yield stack.enter_context(ComfyClient(host.url))


@contextmanager
def _progress(prompt: Prompt) -> Iterator[Callable[[Event], None]]:
    """A bar per running node, fed by the host's events."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=_console, transient=True, disable=not _console.is_terminal) as progress:
        task = progress.add_task("waiting", total=None)

        def on_event(event: Event) -> None:
            node_id = str(event.data.get("node"))
            if event.type == "executing" and node_id in prompt:
                progress.update(task, description=_title(prompt, node_id), completed=0, total=None)
            elif event.type == "progress":
                progress.update(task, completed=event.data.get("value", 0), total=event.data.get("max"))

        yield on_event


def _title(prompt: Prompt, node_id: str) -> str:
    return str((prompt[node_id].get("_meta") or {}).get("title") or prompt[node_id]["class_type"])
