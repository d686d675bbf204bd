"""One way to declare a node that every supported host accepts."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from comfy_api.latest import io

CATEGORY = "latent diffusion"

_KNOWN = {field.name for field in dataclasses.fields(io.Schema)}


def make_schema(group: str | None = None, advanced: Sequence[str] = (), **fields: Any) -> io.Schema:
    """`io.Schema` in this pack's category, without what the running host does not know yet.

    Args:
        group: Category below this pack's; None puts the node at its top.
        advanced: Inputs that most users leave as they are; newer editors fold them away until asked for.
        fields: Of `io.Schema`.

    Newer hosts know more fields (`search_aliases`), and an older one refuses an unknown field with a TypeError.
    """
    for item in fields["inputs"]:
        if item.id in advanced and hasattr(item, "advanced"):
            item.advanced = True
    fields["category"] = f"{CATEGORY}/{group}" if group else CATEGORY
    return io.Schema(**{name: value for name, value in fields.items() if name in _KNOWN})
