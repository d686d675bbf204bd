"""JSON out of files: it is parsed as the backend does it, in one way."""

from ldm_backend.json_text import MAX_LEVELS, not_finite, parse_json

__all__ = ["MAX_LEVELS", "not_finite", "parse_json"]
