"""Schedules, noise and samplers: arithmetic on latents that knows no network."""
