"""Which names of ComfyUI the pack uses: they are there in the host at hand, and not gone or changed in newer ones."""

import ast
from pathlib import Path

import pytest

from ldm_headless import PACK_ROOT, find_host

NODES = PACK_ROOT / "nodes"
HOST_MODULES = {"comfy", "comfy_api", "comfy_extras", "comfy_execution", "folder_paths", "latent_preview", "execution",
                "node_helpers", "server", "utils", "app"}  # fmt: skip
# What the nodes themselves may use; everything else goes through nodes/host, where a change in ComfyUI is met.
EVERYWHERE = ("comfy_api.latest.ComfyExtension", "comfy_api.latest.io", "comfy_api.latest.ui")
# Removed, renamed, called differently or made anew between 0.3.52 and the newest hosts that we know of.
CHANGED = {
    "comfy_api.latest.comfy_io": "called io since 0.3.75, and in all versions",
    "comfy_api.latest.IO": "not there before 0.3.75; io is",
    "comfy_api.latest.UI": "not there before 0.3.75; ui is",
    "comfy_api.latest.io.AutogrowDynamic": "called Autogrow later",
    "comfy_api.latest.io.ControlAfterGenerate": "not there in 0.3; True says the same",
    "comfy_api.latest.io.NodeReplace": "not there in 0.3",
    "comfy.sample.get_models_from_cond": "removed",
    "comfy.model_patcher.CoreModelPatcher": "not there in 0.3",
    "comfy.model_management.archive_model_dtypes": "not there in 0.3",
    "comfy.ops.pick_operations": "other arguments in each version; BaseModel calls it",
    "comfy.ops.scaled_fp8_ops": "removed",
    "comfy.sample.fix_empty_latent_channels": "other arguments later",
    "comfy.k_diffusion.sampling.default_noise_sampler": "another seed on the CPU later",
    "comfy_api.v0_0_2": "changes without warning, says its documentation",
    "execution.PromptExecutor": "other arguments in each version",
}


def used_names(file: Path) -> set[str]:
    """Dotted names of the host in a file: imports, and attributes of what was imported."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    known, found = {}, set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
            known |= {alias.name.partition(".")[0]: alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            known |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    found |= {name for node in ast.walk(tree) if isinstance(node, ast.Attribute) and (name := dotted(node, known))}
    return {name for name in found if name.partition(".")[0] in HOST_MODULES}


def dotted(node: ast.expr, known: dict[str, str]) -> str:
    if isinstance(node, ast.Attribute):
        before = dotted(node.value, known)
        return f"{before}.{node.attr}" if before else ""
    return known.get(node.id, "") if isinstance(node, ast.Name) else ""


FILES = sorted(NODES.rglob("*.py"))


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(NODES)))
def test_names(file: Path) -> None:
    names = used_names(file)
    if NODES / "host" not in file.parents:
        places = tuple(f"{name}." for name in EVERYWHERE)
        assert {name for name in names if not f"{name}.".startswith(places)} == set()
    gone = {name: why for name in names for start, why in CHANGED.items() if f"{name}.".startswith(f"{start}.")}
    assert gone == {}
    absent = {name for name in names if not is_there(name, find_host().path)}
    assert absent == set()


def is_there(name: str, checkout: Path) -> bool:
    """Whether a module of the host is there, and the first name after it: defined in it, or a module below it."""
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        place = checkout.joinpath(*parts[:length])
        source = place.with_suffix(".py") if place.with_suffix(".py").is_file() else place / "__init__.py"
        if source.is_file():
            return length == len(parts) or parts[length] in definitions(source)
        if place.is_dir():  # a folder without __init__.py
            return length == len(parts)
    return False


def definitions(source: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(source.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            found.add(node.name)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            found |= {alias.asname or alias.name for alias in node.names}
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
    return found


def test_the_guard_sees_what_it_must() -> None:
    checkout = find_host().path
    assert is_there("comfy.samplers.CFGGuider", checkout)
    assert not is_there("comfy.samplers.NoSuchName", checkout)
    assert not is_there("comfy.no_such_module.Name", checkout)
    assert "comfy.model_base.BaseModel" in used_names(NODES / "host" / "model.py")
