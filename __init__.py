"""ComfyUI's entry point. Nothing is imported until the host asks, so that tools can import this folder without it."""

from __future__ import annotations

import logging
from typing import Any

WEB_DIRECTORY = "./web"


async def comfy_entrypoint() -> Any:
    """Return the extension with all nodes; ComfyUI calls this once while it loads custom nodes."""
    try:
        from .nodes import LDMExtension

        return LDMExtension()
    except Exception:
        # The host reduces any failure here to one line without a traceback, so the traceback is logged first.
        logging.getLogger("comfyui_ldm").exception("The latent diffusion nodes could not be loaded.")
        raise
