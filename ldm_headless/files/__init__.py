"""Files of a kind: JSON, PNGs with their texts, images in a tar or an npz."""
