"""The jobs of `ldm run`: planned, run, recorded and reported."""
