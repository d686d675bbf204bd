"""Names and texts of the nodes in other languages: complete, nothing left over, and served to the editor."""

import json
import re
from pathlib import Path
from typing import Any

import httpx
import pytest

from ldm_headless import PACK_ROOT, ComfyClient

LANGUAGES = ("zh", "ja")
THEIR_SCRIPT = re.compile(r"[\u3040-\u30ff\u4e00-\u9fff]")
# What vue-i18n, by which the editor shows these texts, takes for syntax.
SYNTAX = re.compile(r"[{}@|]")

each = pytest.mark.parametrize("language", LANGUAGES)


@pytest.fixture
def nodes(client: ComfyClient) -> dict[str, dict[str, Any]]:
    """The pack's nodes as the host describes them."""
    return {node_id: node for node_id, node in client.object_info().items() if node_id.startswith("LDM")}


def translation(language: str, name: str) -> dict[str, Any]:
    return json.loads((PACK_ROOT / "locales" / language / name).read_text(encoding="utf-8"))


def inputs_of(node: dict[str, Any]) -> set[str]:
    return {name for kind in ("required", "optional") for name in node["input"].get(kind, {})}


def texts_in(value: Any) -> list[str]:
    return [text for part in value.values() for text in texts_in(part)] if isinstance(value, dict) else [value]


def test_languages_are_these():
    assert {folder.name for folder in (PACK_ROOT / "locales").iterdir()} >= set(LANGUAGES)


@each
def test_every_node_input_and_output_is_translated(language: str, nodes: dict[str, dict[str, Any]]):
    """Exactly those that exist, so a new input without a translation is noticed, and a text without an input."""
    texts = translation(language, "nodeDefs.json")
    assert texts.keys() == nodes.keys()
    for node_id, node in nodes.items():
        text = texts[node_id]
        assert text.keys() <= {"display_name", "description", "inputs", "outputs"}
        assert text["display_name"].startswith("LDM ")
        assert THEIR_SCRIPT.search(text["description"]), node_id
        assert text.get("inputs", {}).keys() == inputs_of(node), node_id
        assert [*text.get("outputs", {})] == [str(index) for index, _ in enumerate(node["output"])], node_id
        for name, part in text.get("inputs", {}).items():
            assert part.keys() == {"name", "tooltip"}, f"{node_id}.{name}"
        # The editor translates a name that is a type (MODEL, LATENT) by itself.
        for (index, part), kind, name in zip(
            text.get("outputs", {}).items(), node["output"], node["output_name"], strict=True
        ):
            assert ("name" in part) == (name != kind), f"{node_id}, output {index}"
        for part in (*text.get("inputs", {}).values(), *text.get("outputs", {}).values()):
            assert THEIR_SCRIPT.search(part["tooltip"]), f"{node_id}: {part}"


@each
def test_texts_are_shown_as_they_are(language: str):
    texts = texts_in(translation(language, "nodeDefs.json")) + texts_in(translation(language, "main.json"))
    assert [text for text in texts if SYNTAX.search(text)] == []
    names = [node["display_name"] for node in translation(language, "nodeDefs.json").values()]
    assert len(set(names)) == len(names)


@each
def test_categories_are_translated(language: str, nodes: dict[str, dict[str, Any]]):
    categories = {part for node in nodes.values() for part in node["category"].split("/")}
    assert translation(language, "main.json")["nodeCategories"].keys() == categories


@each
def test_the_host_serves_them(language: str, client: ComfyClient):
    served = httpx.get(f"{client.base_url}/i18n", trust_env=False).raise_for_status().json()
    assert served[language]["nodeDefs"] == translation(language, "nodeDefs.json")


def test_files_are_read_as_utf_8():
    """The host opens them so; a mark at their beginning would break them."""
    for file in Path(PACK_ROOT, "locales").rglob("*.json"):
        assert not file.read_bytes().startswith(b"\xef\xbb\xbf"), file
