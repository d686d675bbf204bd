"""Archives of torch.save, read without unpickling."""
