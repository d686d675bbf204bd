"""What no message of the error family may hold: texts that sent people elsewhere than to the cause, and addresses."""

from __future__ import annotations

import re

FALSE_LEADS = (
    "Only unconditional models of this family can be run",
    "make it with LDM Latent Noise, or encode",
    "the defaults are 1.0",
)
_ADDRESS = re.compile(r" at 0x[0-9a-f]{6,}")  # of an object, which is not what the user has


def leads_nowhere(message: str) -> bool:
    """Whether a message is empty, names an address or holds a false lead."""
    return not message.strip() or bool(_ADDRESS.search(message)) or any(lead in message for lead in FALSE_LEADS)
