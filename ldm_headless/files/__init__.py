"""Files of a kind: PNGs with their texts, pictures of users, images in a tar or an npz."""
