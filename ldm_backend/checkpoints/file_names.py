"""Names of checkpoint files. Imports nothing, so that programs which only move files need no torch."""

# Weights of one part of the Hugging Face layout, in order of preference; the last is the name of the first uploads.
WEIGHT_NAMES = ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin", "diffusion_model.pt")

# Of files that hold a whole checkpoint. What such a file is, is told by its content.
SINGLE_FILE_ENDINGS = (".safetensors", ".ckpt", ".pt", ".pth")
