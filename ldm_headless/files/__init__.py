"""Files that are whole or not there, and PNGs with their texts."""
