"""Two sets of images beside each other, for `ldm evaluate`."""
