"""The command that fits what samplers take to a checkpoint."""
