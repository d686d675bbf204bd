"""Guidance without training: what is known or wanted of a picture, brought in while a sampler draws it."""
