"""Files of a kind: JSON, PNGs with their texts, pictures of users, images in a tar or an npz."""
