"""Everything that touches a ComfyUI internal, one file for each: folders, model, vae, progress, schema.

The nodes import from here, so a change in the host is met in one place. Supported hosts: 0.3.52 and newer.
"""
