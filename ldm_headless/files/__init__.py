"""Files of a kind: JSON, and PNGs with their texts."""
