"""What torch is like in the interpreter of a host, without importing it here. Imports the errors."""

import subprocess
import sys
from pathlib import Path

from .errors import HostError


def has_gpu(python: str) -> bool:
    """Whether torch in that interpreter sees an accelerator. Linux without a device file needs no import to tell."""
    if sys.platform == "linux" and not any(Path("/dev", name).exists() for name in ("nvidiactl", "kfd", "dri")):
        return False
    return _ask(python, "torch.cuda.is_available() or torch.backends.mps.is_available()").endswith("True")


def default_threads(python: str) -> int:
    """How many CPU threads a host takes that this interpreter runs and that is told no number.

    Raises:
        HostError: There is no torch.
    """
    answer = _ask(python, "torch.get_num_threads()")
    if not answer.isdecimal():
        raise HostError(f"{python} cannot import torch; correct COMFYUI_PYTHON, or run `make host`")
    return int(answer)


def _ask(python: str, question: str) -> str:
    """The last line of what it prints, empty where it fails."""
    command = [python, "-c", f"import torch; print({question})"]
    lines = subprocess.run(command, capture_output=True, text=True, check=False).stdout.splitlines()
    return lines[-1].strip() if lines else ""
