"""Texts in the metadata of pictures, videos, sounds and other files, which are walked and never decoded."""
