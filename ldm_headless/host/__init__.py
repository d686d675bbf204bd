"""A ComfyUI of our own: installed, started and ended."""
