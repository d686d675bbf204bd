"""Names of the same tensors in different releases. Pure functions on strings; imports nothing of the project."""

from __future__ import annotations

import re

# diffusers renamed the attention projections after this model was published; its files hold the left names.
_ATTENTION_2022 = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
_ATTENTION_KEY = re.compile(rf"(.*\battentions\.\d+\.)({'|'.join(_ATTENTION_2022)})\.(weight|bias)")


def current_name(key: str) -> str:
    """The key under which today's diffusers, and this project, hold the tensor; unknown keys pass unchanged."""
    match = _ATTENTION_KEY.fullmatch(key)
    return f"{match[1]}{_ATTENTION_2022[match[2]]}.{match[3]}" if match else key
