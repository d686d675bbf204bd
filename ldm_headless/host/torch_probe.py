"""What torch is like in the interpreter of a host, without importing it here. Imports the errors."""

import subprocess
import sys
from pathlib import Path

from ..errors import HostError

# One of these is there where Linux has a card: NVIDIA's driver, AMD's, a graphics driver, Windows' own under WSL2.
DEVICE_FILES = ("nvidiactl", "kfd", "dri", "dxg")


def has_gpu(python: str, devices: Path = Path("/dev")) -> bool:
    """Whether torch in that interpreter sees an accelerator. Linux without a device file needs no import to tell.

    Args:
        python: The interpreter.
        devices: The folder of device files.
    """
    if sys.platform == "linux" and not any((devices / name).exists() for name in DEVICE_FILES):
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
