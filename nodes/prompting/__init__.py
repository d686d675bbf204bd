"""The nodes that say what a model is to draw: its class, or vectors of CLIP."""
