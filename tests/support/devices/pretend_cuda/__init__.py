"""A card without hardware: tensors that say "cuda:0", compute on the CPU, and refuse what a card refuses.

    with pretend_card() as log:
        model = ldm_backend.load(folder, device="cuda")
        ...
        assert not log.syncs

Within the block torch believes in a card, in all threads: nothing of it is a mode of one thread. The log knows what the
card was asked for, and where: kernels, copies, waits, questions about memory. What that shows and what it cannot show
is in CONTRIBUTING.md, "The pretended card".

`tensors` are the tensors, `streams` and `graphs` what orders their work, `host_memory` what lies on the CPU, `card`
puts all of it into torch and takes it out again.
"""

from .card import pretend_card
from .log import Act, Copy, Log

__all__ = ["Act", "Copy", "Log", "pretend_card"]
