"""The denoiser and the first stages, and how they are run."""
