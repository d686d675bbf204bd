"""Workflow files: read, changed and checked."""
