"""The `ldm` command. Results go to standard output, progress and messages to standard error.

Exit codes: 0 done; 1 a node failed, the prompt was lost, no image came, an image cannot be written, workers fail, or a
checkpoint draws other pixels than it should; 2 wrong usage, workflow file, output folder, checkpoint or configuration,
a model that cannot be downloaded, or a folder, picture or image set that does not fit the command; 3 refused by the
host's validation or a dry run; 4 no host, server or Ray cluster; 70 a fault of ours, see fault_log; 130 interrupted;
143 ended by SIGTERM. A run of several jobs has the code of its first failure. They stand on the headless error classes;
the backend's errors, which know of no command, all mean 2.
"""

import sys
from pathlib import Path
from typing import Annotated

import typer

from ldm_backend.errors import LDMError

from .commands.arguments import DoorCommand
from .commands.checkpoints import convert, download, inspect
from .commands.evaluate import evaluate
from .commands.fitting.fit_steps import fit_steps
from .commands.generate import generate
from .commands.inpaint import inpaint
from .commands.restore import restore
from .commands.run import run
from .commands.upscale import upscale
from .commands.verify import verify
from .fault_log import EXIT_CODE, tell
from .host.install import DEFAULT_VERSION, PACK_ROOT, VERSIONS, install_host
from .host.stopping import end_on_signals, leave
from .terminal import guard_logging, note, result

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)


@app.callback()
def _root() -> None:
    """Run ComfyUI workflows without a browser; generate, enlarge, mend and compare images; handle checkpoints."""


@app.command(cls=DoorCommand)
def install_private_host(
    directory: Annotated[Path, typer.Argument(help="Where to put ComfyUI.")] = PACK_ROOT / ".comfyui",
    constraints: Annotated[Path | None, typer.Option(help="A pip constraints file.")] = None,
    version: Annotated[str, typer.Option(help=f"Of ComfyUI: {', '.join(VERSIONS)}.")] = DEFAULT_VERSION,
) -> None:
    """Install a private ComfyUI, and its requirements into this Python environment."""
    result(install_host(directory, constraints, version).path)


for _command in (run, generate, upscale, inpaint, restore, evaluate, convert, inspect, verify, download, fit_steps):
    app.command(cls=DoorCommand)(_command)


def main() -> None:
    """Entry point: every error becomes one message and an exit code, and SIGTERM ends us as Ctrl-C does."""
    end_on_signals()
    guard_logging()
    try:
        app()
    except LDMError as error:
        note(str(error), "red")
        sys.exit(getattr(error, "exit_code", 2))
    except Exception as error:
        # The outermost place: whatever comes here is none of ours, and a traceback helps nobody at the terminal.
        note(tell(error), "red")
        sys.exit(EXIT_CODE)
    except SystemExit as end:
        leave(end)  # Typer makes 130 of every interruption
