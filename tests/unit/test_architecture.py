"""Who may import whom, and that every advertised way of importing works."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
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
    "torchvision",
    "latent_preview",
    "execution",
}
PURE = {"torch", "numpy", "PIL", "safetensors", "einops"}

# Folder -> first names of absolute imports that are allowed beyond the standard library.
ALLOWED = {
    # The last two for hub names and for models of texts, where they are there.
    "ldm_backend": PURE | {"yaml", "huggingface_hub", "tokenizers"},
    "ldm_headless": PURE | {"filelock", "httpx", "websockets", "typer", "rich", "ray", "torch_fidelity", "ldm_backend"},
    "nodes": PURE | HOST,
    "demo": PURE | {"ldm_backend"},
}

# Package -> room -> rooms that it may import, besides itself. A room is a folder at any depth ("a", "a.b"), or a module
# beside them. An arrow leads to a room above its own in these lists, and every one that is listed is there.
ROOMS: dict[str, dict[str, set[str]]] = {
    "ldm_backend": {
        "errors": set(),
        "json_text": {"errors"},
        "whole_files": set(),
        "locations": {"errors"},
        "finite": set(),
        "archives": set(),
        "config": {"errors"},
        "texts": {"config", "errors"},
        "memory": {"config", "errors"},
        "kernels": {"memory"},
        "networks": {"config", "errors", "kernels", "memory"},
        "networks.conditioners": {"config", "errors"},
        "sampling": {"config", "errors"},
        "editing": {"errors", "sampling"},
        "checkpoints": {
            "archives", "config", "errors", "finite", "json_text", "locations", "networks", "networks.conditioners",
            "texts", "whole_files",
        },
        "hub": {"errors", "locations", "whole_files"},
        "views": {"errors", "finite", "kernels", "networks"},
        "conditioning": {"config", "errors", "memory", "networks", "views"},
        "throughput": {"checkpoints", "memory"},
        "contexts": {"config", "errors", "kernels", "networks", "networks.conditioners", "texts"},
        "pipeline": {
            "checkpoints", "config", "contexts", "errors", "hub", "kernels", "memory", "networks", "sampling", "texts",
            "views",
        },
        "verification": {
            "checkpoints", "config", "errors", "hub", "kernels", "memory", "networks", "pipeline", "views",
        },
        "tasks": {
            "conditioning", "config", "errors", "kernels", "memory", "pipeline", "sampling", "views",
        },
        "guidance": {
            "conditioning", "config", "errors", "kernels", "memory", "networks", "pipeline", "sampling", "views",
        },
        "fitting": {"config", "errors", "json_text", "kernels", "memory", "pipeline", "sampling", "whole_files"},
        "__init__": {"checkpoints", "errors", "fitting", "guidance", "pipeline", "tasks"},
    },
    "ldm_headless": {
        "errors": set(),
        "seed_ranges": {"errors"},
        "terminal": set(),
        "fault_log": set(),
        "files": {"errors"},
        "carriers": {"errors"},
        "client": {"errors"},
        "host": {"client", "errors"},
        "ui_format": {"errors"},
        "workflows": {"carriers", "errors", "ui_format"},
        "pools": {"errors", "fault_log"},
        "run": {"client", "errors", "host", "pools", "seed_ranges", "terminal", "ui_format", "workflows"},
        "generation": {"errors", "files", "seed_ranges"},
        "tasks": {"errors", "files", "generation"},
        "evaluation": {"errors", "files"},
        "commands": {
            "client", "errors", "evaluation", "files", "generation", "host", "pools", "run", "seed_ranges", "tasks",
            "terminal", "workflows",
        },
        "commands.fitting": {"commands", "errors", "terminal"},
        "cli": {"commands", "commands.fitting", "fault_log", "host", "terminal"},
        "__main__": {"cli"},
        "__init__": {"client", "errors", "host", "workflows"},
    },
}  # fmt: skip
# Room of the nodes -> what it may import besides the backend. Node files, in `nodes`, `nodes.guidance` and
# `nodes.prompting`, stand alone.
NODE_ROOMS = {
    "nodes.host": {"nodes.host", "nodes.host.conditioners"},
    "nodes.host.conditioners": {"nodes.host", "nodes.host.conditioners"},
    "nodes.host.sampling": {"nodes.host", "nodes.host.sampling"},
    "nodes.shared": {"nodes.host", "nodes.host.conditioners", "nodes.host.sampling", "nodes.shared"},
    "nodes.guidance": {"nodes.host", "nodes.host.sampling", "nodes.shared"},
    "nodes.prompting": {"nodes.host", "nodes.host.conditioners", "nodes.shared"},
    "nodes": {"nodes.host", "nodes.host.conditioners", "nodes.host.sampling", "nodes.shared"},
}
MOST_FILES = 16  # directly in a room
MOST_FLOORS = 9  # of rooms in a package, and of modules in a room


def absolute_imports(file: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names.add(node.module.partition(".")[0])
    return names


def modules_of(package: Path) -> dict[str, Path]:
    """Files by their dotted names below the package; that of a folder ends with `__init__`."""
    files = sorted(package.rglob("*.py"))
    return {".".join(file.relative_to(package).with_suffix("").parts): file for file in files}


def relative_imports(name: str, modules: Mapping[str, Path]) -> Iterator[str]:
    """Modules of its package that a module imports, wherever in it, also for the type checker only."""
    for node in ast.walk(ast.parse(modules[name].read_text(encoding="utf-8"))):
        if not isinstance(node, ast.ImportFrom) or not node.level:
            continue
        folder = name.split(".")[:-1]
        assert node.level <= len(folder) + 1, f"{name} reaches out of its package"
        base = folder[: len(folder) - node.level + 1] + (node.module.split(".") if node.module else [])
        for alias in node.names:
            endings = ([alias.name], [alias.name, "__init__"], ["__init__"], [])
            yield next(full for ending in endings if (full := ".".join([*base, *ending])) in modules)


def room_of(module: str) -> str:
    folder, _, leaf = module.rpartition(".")
    return folder or leaf


def floors(arrows: Mapping[str, set[str]]) -> list[str]:
    """The longest chain of arrows.

    Raises: AssertionError: there is a cycle.
    """
    longest: dict[str, list[str]] = {}

    def chain_from(name: str, above: tuple[str, ...]) -> list[str]:
        assert name not in above, f"a cycle: {' -> '.join([*above, name])}"
        if name not in longest:
            longest[name] = [name, *max((chain_from(n, (*above, name)) for n in arrows[name]), key=len, default=[])]
        return longest[name]

    return max((chain_from(name, ()) for name in arrows), key=len)


def arrows_of(package: str) -> dict[str, set[str]]:
    modules = modules_of(ROOT / package)
    return {name: set(relative_imports(name, modules)) for name in modules}


@pytest.mark.parametrize("folder", ALLOWED)
def test_imports(folder):
    files = [file for file in (ROOT / folder).rglob("*.py") if "__pycache__" not in file.parts]
    assert files
    for file in files:
        own = {path.stem for path in (ROOT / folder).rglob("*.py")} if folder == "demo" else set()
        foreign = absolute_imports(file) - set(sys.stdlib_module_names) - ALLOWED[folder] - own
        assert not foreign, f"{file.relative_to(ROOT)} imports {foreign}"


@pytest.mark.parametrize("package", ROOMS)
def test_arrows_between_rooms(package):
    """Exactly those of the table, each to a room above in it: no cycle, and nothing stale."""
    modules = arrows_of(package)
    assert {room_of(module) for module in modules} == set(ROOMS[package])
    found = {(room_of(module), room_of(other)) for module, imported in modules.items() for other in imported}
    found = {(room, other) for room, other in found if room != other}
    listed = {(room, other) for room, others in ROOMS[package].items() for other in others}
    assert found - listed == set(), "not in the table"
    assert listed - found == set(), "in the table, but nobody imports so"
    order = list(ROOMS[package])
    assert {(room, other) for room, other in listed if order.index(other) > order.index(room)} == set(), "upward"


@pytest.mark.parametrize("package", ROOMS)
def test_no_cycle_and_few_floors(package):
    arrows = arrows_of(package)
    floors(arrows)  # of modules across rooms: any length, no cycle
    assert len(floors(ROOMS[package])) <= MOST_FLOORS
    for room in ROOMS[package]:
        inside = {name: {n for n in arrows[name] if room_of(n) == room} for name in arrows if room_of(name) == room}
        assert len(longest := floors(inside)) <= MOST_FLOORS, longest


@pytest.mark.parametrize("package", [*ROOMS, "nodes"])
def test_rooms_are_small_and_said_in_a_line(package):
    """A folder without an `__init__.py` would not be in the wheel."""
    folders = {file.parent for file in modules_of(ROOT / package).values()} - {ROOT / package}
    for folder in sorted(folders):
        init = folder / "__init__.py"
        assert init.is_file(), folder
        assert ast.get_docstring(ast.parse(init.read_text(encoding="utf-8"))), folder
    for folder in (ROOT / package, *folders):
        assert len(list(folder.glob("*.py"))) <= MOST_FILES, folder


def test_the_rules_see_what_they_forbid():
    """A cycle, and a chain of known length."""
    assert floors({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == ["a", "b", "c"]
    with pytest.raises(AssertionError, match="a -> b -> a"):
        floors({"a": {"b"}, "b": {"a"}})


def node_classes(file: Path) -> tuple[str, ...]:
    tree = ast.parse(file.read_text(encoding="utf-8"))
    classes = [node for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
    return tuple(node.name for node in classes if "io.ComfyNode" in map(ast.unparse, node.bases))


def test_a_node_file_needs_no_other():
    """Or the fault of one would take the nodes of others along. What several need is in rooms, without a node."""
    packages = {package: modules_of(ROOT / package) for package in ("nodes", "ldm_backend")}
    modules = {f"{package}.{name}": file for package, files in packages.items() for name, file in files.items()}
    ours = [name for name in modules if name.startswith("nodes.")]
    arrows = {name: {other for other in relative_imports(name, modules) if other in ours} for name in ours}
    floors(arrows)
    assert {room_of(name) for name in ours} == set(NODE_ROOMS)
    for name, others in arrows.items():
        assert {room_of(other) for other in others} <= NODE_ROOMS[room_of(name)], name


def test_nodes_are_where_the_table_says():
    """`NODES` names every file directly in `nodes`, and all nodes in it and in the rooms."""
    tree = ast.parse((ROOT / "nodes" / "__init__.py").read_text(encoding="utf-8"))
    tables = {ast.unparse(node.target): node.value for node in tree.body if isinstance(node, ast.AnnAssign)}
    listed = ast.literal_eval(tables["NODES"] or "{}")
    found = {name: node_classes(file) for name, file in modules_of(ROOT / "nodes").items() if name != "__init__"}
    assert {name: sorted(nodes) for name, nodes in found.items() if nodes or "." not in name} == {
        name: sorted(nodes) for name, nodes in listed.items()
    }


def test_only_one_room_of_the_nodes_imports_the_host():
    """Besides `comfy_api`, its public interface; which names of that, `test_host_names.py` says."""
    modules = modules_of(ROOT / "nodes")
    importing = {name for name, file in modules.items() if absolute_imports(file) & HOST - {"comfy_api"}}
    assert {room_of(name) for name in importing} == {"host", "host.conditioners", "host.sampling"}


def test_one_module_names_the_keys_of_a_latent():
    """Those of this pack: a key that is written in one file and read in another has one spelling."""
    keys = {"ldm_seed", "ldm_labels", "ldm_info"}
    trees = {name: ast.parse(file.read_text(encoding="utf-8")) for name, file in modules_of(ROOT / "nodes").items()}
    literals = {name: {n.value for n in ast.walk(tree) if isinstance(n, ast.Constant)} for name, tree in trees.items()}
    assert {name for name, found in literals.items() if found & keys} == {"shared.latent_batch"}


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


@pytest.mark.parametrize("package", ["ldm_backend", "ldm_headless", "nodes"])
def test_docstrings_are_google_blocks(package):
    """Sections stand alone on their line, with their entries below; ruff sees to the rest of the dialect."""
    inline = [
        f"{file.relative_to(ROOT)}:{number}"
        for file in sorted((ROOT / package).rglob("*.py"))
        for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1)
        if re.match(r" +(Args|Attributes|Returns|Raises|Yields): *\S", line)
    ]
    assert not inline


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
