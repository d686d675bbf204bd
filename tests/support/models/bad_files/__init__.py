"""A corpus of damaged and hostile checkpoints. Each is a function that spoils a small Hugging Face folder.

`CASES` has them by name: (function, pattern of the message). A function gets a folder that loads, changes it, and may
return another path that is to be loaded instead.
"""

from . import archives, configurations, costs, metadata, others, tensors, two_views
from .registry import CASES, UNET, VQ

__all__ = ["CASES", "UNET", "VQ", "archives", "configurations", "costs", "metadata", "others", "tensors", "two_views"]
