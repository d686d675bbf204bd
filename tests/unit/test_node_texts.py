"""What explains a node without a host: its help page with a picture, and the words by which newer hosts find it."""

import ast
import json
import re
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "web" / "docs"
PAGES = sorted(DOCS.glob("LDM*.md"))
# Help pages without a picture of the node in a template: that needs weights that are not part of the pack.
WITHOUT_WEIGHTS = ("LDMCLIPVectors", "LDMClass", "LDMSemanticLabels", "LDMSemanticRegion")
PICTURED = [page for page in PAGES if page.stem not in WITHOUT_WEIGHTS]
PICTURE = re.compile(r"!\[([^\]]+)\]\(([^)]+)\)")


def schemas() -> dict[str, dict[str, ast.expr]]:
    """The arguments of each node's schema, by node id; read from the source, since importing nodes/ needs a host."""
    found: dict[str, dict[str, ast.expr]] = {}
    for file in (ROOT / "nodes").rglob("*.py"):
        for call in ast.walk(ast.parse(file.read_text())):
            if isinstance(call, ast.Call) and getattr(call.func, "id", None) == "make_schema":
                fields = {keyword.arg: keyword.value for keyword in call.keywords if keyword.arg}
                found[ast.literal_eval(fields["node_id"])] = fields
    return found


def test_every_node_has_search_aliases():
    """Hosts that know `search_aliases` find a node by the names of its cousins; none repeats a node's own name."""
    nodes = schemas()
    assert nodes.keys() == {page.stem for page in PAGES}
    for node_id, fields in nodes.items():
        aliases = ast.literal_eval(fields["search_aliases"])
        assert len(aliases) >= 2, node_id
        assert len({alias.lower() for alias in aliases}) == len(aliases), node_id
        assert ast.literal_eval(fields["display_name"]) not in aliases, node_id


@pytest.mark.parametrize("page", PICTURED, ids=lambda page: page.stem)
def test_help_page_shows_its_node(page: Path):
    """The frontend looks for pictures beside the page; only relative paths work under any folder name."""
    pictures = PICTURE.findall(page.read_text())
    assert f"images/{page.stem}.jpg" in [path for _, path in pictures]
    for text, path in pictures:
        assert len(text) > 20, "a screen reader gets the text"
        width, height = Image.open(DOCS / path).size
        assert 300 <= width <= 800, path
        assert height >= 100, path


def test_pictures_are_small_and_none_is_left_over():
    """All of them travel with every clone."""
    pictures = sorted((DOCS / "images").glob("LDM*.jpg"))
    assert [picture.stem for picture in pictures] == [page.stem for page in PICTURED]
    assert sum(picture.stat().st_size for picture in pictures) < 3 * 2**20


def test_a_page_is_without_a_picture_only_while_no_template_shows_its_node():
    """The list of these ends with the weights that it waits for."""
    assert {page.stem for page in PAGES} >= set(WITHOUT_WEIGHTS)
    shown = {
        node["class_type"]
        for file in (ROOT / "workflows" / "api").glob("*.json")
        for node in json.loads(file.read_text()).values()
    }
    assert shown & {page.stem for page in PAGES} == {page.stem for page in PICTURED}
