"""`python -m ldm_headless` is `ldm`."""

from .cli import main

main()
