"""What several node files need: a fault here reaches all of them, one in a node file only that file's nodes."""
