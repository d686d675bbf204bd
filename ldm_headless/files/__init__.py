"""Files of a kind: PNGs with their texts."""
