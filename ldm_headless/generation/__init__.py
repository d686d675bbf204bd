"""The images of `ldm generate`, which no ComfyUI draws."""
