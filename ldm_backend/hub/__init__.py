"""Models by name: from the Hugging Face hub's cache on this machine, or downloaded and verified. Needs no torch."""
