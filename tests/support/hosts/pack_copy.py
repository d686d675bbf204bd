"""The pack where a test may change it."""

import shutil
from pathlib import Path

from ldm_headless import PACK_ROOT


def copy_of_the_pack(folder: Path) -> Path:
    """All that ComfyUI loads of it and the demo checkpoint, without caches, in a new folder, which is returned."""
    for name in ("nodes", "ldm_backend", "demo"):
        shutil.copytree(PACK_ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(PACK_ROOT / "__init__.py", folder)
    return folder
