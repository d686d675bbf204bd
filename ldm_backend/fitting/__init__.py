"""Timesteps and coefficients of a solver, fitted to a model by its trajectories, and the files that hold them."""
