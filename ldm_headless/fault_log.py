"""What no error of ours explains is a fault of ours: a private file with its traceback, for a report. Standard library.

Secrets do not go into it: what stands in addresses before the `@` and behind the `?`, what looks like a header or token
in any text, and the values of the environment's tokens.
"""

import os
import platform
import re
import sys
import tempfile
import traceback
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version

EXIT_CODE = 70
"""Of `ldm` after such a fault; sysexits.h calls it an internal software error."""

_HIDDEN = "***"
_SECRETS = (
    (re.compile(r"(\b[a-z][a-z0-9+.-]{0,20}://)[^\s/@'\"]*@", re.IGNORECASE), rf"\1{_HIDDEN}@"),
    (re.compile(r"(\b[a-z][a-z0-9+.-]{0,20}://[^\s?'\"]{0,500}\?)[^\s'\"]+", re.IGNORECASE), rf"\1{_HIDDEN}"),
    (re.compile(r"\b(bearer|basic)\s+[\w.~+/=-]+", re.IGNORECASE), rf"\1 {_HIDDEN}"),
    (
        re.compile(
            r"((?:authorization|cookie|token|passw(?:or)?d|secret|api[_-]?key)[\w-]{0,40}[\"']?\s{0,3}[=:]\s{0,3}).+",
            re.IGNORECASE,
        ),
        rf"\1{_HIDDEN}",
    ),
)
_SECRET_NAME = re.compile(r"token|passw|secret|key|credential", re.IGNORECASE)
_SHORTEST_SECRET = 4  # shorter ones are in every other word
_PACKAGES = ("comfyui-ldm", "torch", "numpy", "pillow", "safetensors", "typer", "httpx", "websockets", "ray")
_MOST = 500_000  # characters


def without_secrets(text: str) -> str:
    """The text with stars in the place of what may let somebody in."""
    for name, value in os.environ.items():
        if _SECRET_NAME.search(name) and len(value) >= _SHORTEST_SECRET:
            text = text.replace(value, _HIDDEN)
    for pattern, shown in _SECRETS:
        text = pattern.sub(shown, text)
    return text


def account(error: BaseException, arguments: Sequence[str]) -> str:
    """All that a report needs: versions, the arguments of the command, the traceback; no values of variables.

    Args:
        error: What was raised.
        arguments: Of the command.
    """
    lines = [f"Python {platform.python_version()} on {platform.platform()}", *map(_version, _PACKAGES)]
    lines += ["arguments:", *(f"  {argument[:2000]!r}" for argument in arguments[:200])]
    trace = "".join(traceback.format_exception(error))
    text = without_secrets("\n".join(lines) + "\n\n" + trace)
    return text if len(text) <= _MOST else f"{text[: _MOST // 2]}\n...\n{text[-_MOST // 2 :]}"


def write_log(text: str) -> str | None:
    """The path of a new file with the text, which only its owner reads; None where there is no place for one."""
    try:
        # A name that nobody can guess, made only where there is none, with the mode 0600.
        handle, path = tempfile.mkstemp(prefix="ldm-fault-", suffix=".log")
        with open(handle, "w", encoding="utf-8", errors="backslashreplace") as file:
            file.write(text)
    except OSError:
        return None
    return path


def _version(package: str) -> str:
    try:
        return f"{package} {version(package)}"
    except PackageNotFoundError:
        return f"{package} -"


def tell(error: BaseException) -> str:
    """What to say of a fault on the terminal: a sentence with the path of its log, or else the whole account.

    Args:
        error: What was raised.
    """
    text = account(error, sys.argv[1:])
    kind = f"this is a fault of ldm, not of yours ({type(error).__name__}); please report it"
    path = write_log(text)
    if path is None:
        return f"{kind}, with what follows, for no log file could be written:\n{text}"
    return f"{kind} with the file {path}, which holds the details"
