"""From files of any layout to checked tensors, and back."""
