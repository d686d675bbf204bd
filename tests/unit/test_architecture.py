"""Who may import whom, and that every advertised way of importing works."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HOST = {
    "comfy",
    "comfy_api",
    "comfy_extras",
    "comfy_execution",
    "folder_paths",
    "server",
    "latent_preview",
    "execution",
}
PURE = {"torch", "numpy", "PIL", "safetensors", "einops"}

# Folder -> first names of absolute imports that are allowed beyond the standard library.
ALLOWED = {
    "ldm_backend": PURE | {"yaml", "huggingface_hub", "httpx"},  # the last two for hub names, where they are there
    "ldm_headless": PURE | {"filelock", "httpx", "websockets", "typer", "rich", "ray", "torch_fidelity", "ldm_backend"},
    "nodes": PURE | HOST,
    "demo": PURE | {"ldm_backend"},
}


def absolute_imports(file: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names.add(node.module.partition(".")[0])
    return names


@pytest.mark.parametrize("folder", ALLOWED)
def test_imports(folder):
    files = [file for file in (ROOT / folder).rglob("*.py") if "__pycache__" not in file.parts]
    assert files
    for file in files:
        own = {path.stem for path in file.parent.glob("*.py")} if folder == "demo" else set()
        foreign = absolute_imports(file) - set(sys.stdlib_module_names) - ALLOWED[folder] - own
        assert not foreign, f"{file.relative_to(ROOT)} imports {foreign}"


def test_the_backend_never_reaches_up():
    """Relative imports of ldm_backend stay inside it, so that it works without the pack around it."""
    for file in (ROOT / "ldm_backend").glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            assert not (isinstance(node, ast.ImportFrom) and node.level > 1), file.name


@pytest.mark.parametrize("folder", [ROOT, Path("/")])
def test_backend_imports_from_a_clones_root_and_when_installed(folder):
    """Both give the same public names, and neither pulls in a host."""
    code = (
        "import sys, ldm_backend, ldm_backend.errors;"
        "assert callable(ldm_backend.load) and callable(ldm_backend.generate);"
        "assert issubclass(ldm_backend.errors.LDMError, ValueError);"
        "print(sorted({'comfy', 'nodes'} & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_size_limits():
    """Modules stay readable: at most 320 lines each."""
    folders = [ROOT / name for name in ALLOWED]
    long = {
        str(file.relative_to(ROOT)): lines
        for folder in folders
        for file in folder.rglob("*.py")
        if (lines := len(file.read_text(encoding="utf-8").splitlines())) > 320
    }
    assert not long
