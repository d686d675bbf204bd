"""Timesteps fitted to a model by its own trajectories, and the small files that hold them."""
