"""Gives a Python process the pretended card, from its very start.

Python imports a module of this name by itself. All that the card is asked for but single kernels is a JSON line in the
file that PRETENDED_CARD names: its kind, what, where, and how many kernels there were before.
"""

import json
import os
import sys
from pathlib import Path

if sys.orig_argv[1:2] != ["-c"]:  # that is the process which becomes the host in a moment
    sys.path.append(str(Path(__file__).parents[1]))
    from pretend_cuda import Act, Log, pretend_card

    class ToFile(Log):
        """A log that others can read while the process runs."""

        def __init__(self) -> None:
            super().__init__()
            self._launches = 0
            self._file = os.open(os.environ["PRETENDED_CARD"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)

        def note(self, act: Act) -> None:
            """Write it down."""
            self._launches += act.kind == "launch"
            if act.kind != "launch" or act.what == "CUDAGraph.replay":
                os.write(self._file, (json.dumps([act.kind, act.what, act.where, self._launches]) + "\n").encode())

    card = pretend_card(ToFile())  # kept: it would end with the last reference
    card.__enter__()
