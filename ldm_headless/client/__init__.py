"""Talks with a ComfyUI server."""
