"""Images changed with samplers: inversion, inpainting, interpolation."""
