"""How many prompts a host has run, asked once it is at rest."""

import time

import httpx

from ldm_headless import PrivateHost


def executions(host: PrivateHost) -> int:
    """How many prompts the host's log has ended, once nothing runs.

    The host tells its clients, and empties its queue, a little before it logs the end of the last prompt, also of one
    that somebody left to it before: the count is that which a second does not change.

    Raises: SystemExit: It is not at rest after a minute.
    """
    deadline, count, since = time.monotonic() + 60, -1, 0.0
    with httpx.Client(base_url=host.url, trust_env=False) as http:
        while time.monotonic() < deadline:
            queue, ended = http.get("/queue").json(), host.log().count("Prompt executed in")
            if ended != count or queue["queue_running"] or queue["queue_pending"]:
                count, since = ended, time.monotonic()
            elif time.monotonic() - since > 1:
                return count
            time.sleep(0.1)
    raise SystemExit("The host still runs prompts that nobody waits for.")
