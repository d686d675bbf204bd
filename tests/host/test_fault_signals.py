"""A ComfyUI that is ended in any phase of its work, by SIGTERM or SIGKILL: what it saved is whole, the next one works.

`LDM_KILLS=20` ends it so many times; the default ends it once in each phase.
"""

import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from prompts.parts import portrait

from ldm_headless import PACK_ROOT, ComfyClient, Event, PrivateHost, find_host
from ldm_headless.errors import HostError

KILLS = int(os.environ.get("LDM_KILLS", "5"))
# Where a prompt is: the event that begins the phase, and how many seconds after it the latest blow falls.
PHASES: dict[str, tuple[Callable[[Event], bool], float]] = {
    "loading": (lambda event: executing(event, "1"), 0.1),
    "sampling": (lambda event: event.type == "progress" and event.data.get("node") == "3", 0.4),
    "decoding": (lambda event: executing(event, "4"), 0.3),
    "saving": (lambda event: executing(event, "5"), 0.2),
}
STARTUP_S = 8.0


class Ended(Exception):  # noqa: N818 - nothing went wrong
    """The blow has fallen."""


def executing(event: Event, node_id: str) -> bool:
    return event.type == "executing" and event.data.get("node") == node_id


def new_host(base: Path) -> PrivateHost:
    return PrivateHost(find_host(), {"comfyui-ldm": PACK_ROOT}, base)


def kill_points() -> list[tuple[str, signal.Signals, float]]:
    """(phase, signal, share of the phase's time that passes first)."""
    phases = ["startup", *PHASES]
    signals = (signal.SIGKILL, signal.SIGTERM)
    return [
        (phases[index % 5], signals[(index + index // 5) % 2], (0.5 + 0.37 * (index // 5)) % 1.0)
        for index in range(KILLS)
    ]


def end_at_startup(base: Path, number: signal.Signals, seconds: float) -> None:
    host = new_host(base)
    failures: list[BaseException] = []

    def start() -> None:  # the host ends with the thread that started it, so this one stays until it has ended
        try:
            host.start()
        except HostError as error:
            failures.append(error)

    starter = threading.Thread(target=start)
    starter.start()
    while not host.log_path.exists() or host.log_path.stat().st_size == 0:
        time.sleep(0.01)
    time.sleep(seconds)
    os.kill(host.pid, number)
    starter.join()
    host.stop()
    assert all("died during its start" in str(error) for error in failures)


def end_at_work(host: PrivateHost, phase: str, number: signal.Signals, share: float, prefix: str) -> None:
    begins, seconds = PHASES[phase]

    def strike(event: Event) -> None:
        if begins(event):
            time.sleep(share * seconds)
            os.kill(host.pid, number)
            raise Ended

    prompt = portrait(500, batch=12, side=128, steps=6, prefix=prefix)
    prompt["1"]["inputs"]["weights"] = "raw"  # not as in the checks: the host must not have it, but load it again
    with ComfyClient(host.url) as client:
        prompt_id = client.submit(prompt)
        with pytest.raises(Ended):
            client.follow(prompt_id, strike)


def check_picture(host: PrivateHost, prefix: str) -> np.ndarray:
    """A picture by a prompt that is always the same."""
    with ComfyClient(host.url) as client:
        prompt_id = client.submit(portrait(7, steps=5, prefix=prefix))
        client.follow(prompt_id)
        (ref,) = client.outputs(prompt_id)
    return np.asarray(Image.open(host.base_directory / "output" / ref.subfolder / ref.filename))


def whole_pictures(output: Path) -> int:
    """How many PNGs there are, each of which opens whole; a file that was begun may remain, hidden, never as one."""
    found = 0
    for file in output.rglob("*"):
        if file.is_dir() or (file.name.startswith(".") and file.suffix != ".png"):
            continue
        assert file.suffix == ".png", file
        with Image.open(file) as image:
            image.load()
            found += 1
    return found


def test_a_host_that_is_ended_anywhere_leaves_whole_pictures_and_starts_again(tmp_path: Path) -> None:
    base, output = tmp_path / "base", tmp_path / "base" / "output"
    expected = None
    for index, (phase, number, share) in enumerate(kill_points()):
        if phase == "startup":
            end_at_startup(base, number, share * STARTUP_S)
            continue
        with new_host(base) as host:
            picture = check_picture(host, f"check-{index}")
            expected = picture if expected is None else expected
            assert np.array_equal(picture, expected), (phase, number)
            end_at_work(host, phase, number, share, f"killed-{index}")
        checks = len(list(output.glob("check-*.png")))
        assert whole_pictures(output) >= checks >= 1
    with new_host(base) as host:
        last = check_picture(host, "check-last")
        assert expected is None or np.array_equal(last, expected)
        assert "Traceback" not in host.log()
    hidden = [path for path in output.rglob(".*") if path.is_file()]
    assert len(hidden) <= KILLS // 5 + 1  # at most the file that a blow in `saving` met
