"""Runs that are killed, cut and restarted at every joint: the same command completes them, with the same images.

`LDM_FAULT_JOBS=200` makes every run that long; the default keeps the tests short.
"""

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from executions import executions
from fault_proxy import FaultProxy
from ldm_runs import JOBS, LIMIT, Run, images, processes

from ldm_headless import PACK_ROOT, ComfyClient, PrivateHost, find_host


@pytest.fixture(scope="module")
def undisturbed(host: PrivateHost, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    run = Run(tmp_path_factory.mktemp("undisturbed") / "out", host.url)
    run.end(0)
    expected = images(run.out)
    assert len(set(expected.values())) == JOBS
    return expected


@pytest.fixture
def proxy(host: PrivateHost) -> Iterator[FaultProxy]:
    with FaultProxy(host.url) as running:
        yield running


@pytest.fixture
def start_host() -> Iterator[Callable[[], PrivateHost]]:
    """Starts hosts of a test's own, to be killed."""
    started: list[PrivateHost] = []

    def start() -> PrivateHost:
        started.append(PrivateHost(find_host(), {"comfyui-ldm": PACK_ROOT}))
        return started[-1].__enter__()

    yield start
    for host in started:
        host.stop()


def test_cut_web_sockets_change_nothing(proxy: FaultProxy, tmp_path: Path, undisturbed: dict[str, bytes]) -> None:
    run, cuts = Run(tmp_path / "out", proxy.url), 0
    for count in range(1, JOBS, 4):
        run.wait_for_images(count)
        cuts += proxy.cut_web_sockets()
    run.end(0)
    assert cuts >= 2
    assert images(run.out) == undisturbed


def test_a_submission_whose_answer_is_lost_is_not_repeated(
    proxy: FaultProxy, host: PrivateHost, tmp_path: Path, undisturbed: dict[str, bytes]
) -> None:
    before = executions(host)
    proxy.swallow_submissions = 5
    run = Run(tmp_path / "out", proxy.url)
    run.end(0)
    assert proxy.swallow_submissions == 0
    assert executions(host) - before == JOBS
    assert images(run.out) == undisturbed


def test_cut_connections_of_every_kind_change_nothing(
    proxy: FaultProxy, host: PrivateHost, tmp_path: Path, undisturbed: dict[str, bytes]
) -> None:
    before, run = executions(host), Run(tmp_path / "out", proxy.url)
    for count in range(1, JOBS, 4):
        run.wait_for_images(count)
        proxy.cut()
    run.end(0)
    assert images(run.out) == undisturbed
    assert executions(host) - before == JOBS


def test_a_killed_client_goes_on_where_it_was(host: PrivateHost, tmp_path: Path, undisturbed: dict[str, bytes]) -> None:
    before, out = executions(host), tmp_path / "out"
    for count in (1, JOBS // 2):
        run = Run(out, host.url)
        run.wait_for_images(count)
        run.process.kill()
        run.process.communicate()
    run = Run(out, host.url)
    run.end(0)
    counts = run.report()["counts"]
    assert counts["kept"] >= JOBS // 2
    assert counts["kept"] + counts["done"] == JOBS
    assert images(out) == undisturbed
    assert [path.name for path in out.iterdir() if path.name.startswith(".ldm-partial")] == []
    assert executions(host) - before == JOBS  # what the killed one had submitted is taken over
    assert run.paths == [str(out / name) for name in undisturbed]


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_stopped_client_takes_its_prompts_back_and_reports(
    number: int, status: int, host: PrivateHost, client: ComfyClient, tmp_path: Path, undisturbed: dict[str, bytes]
) -> None:
    run = Run(tmp_path / "out", host.url)
    run.wait_for_images(2)
    run.process.send_signal(number)
    assert "the same command goes on from there" in run.end(status)
    deadline = time.monotonic() + LIMIT
    while client.queue_length() and time.monotonic() < deadline:
        time.sleep(0.05)  # the host ends the running step first
    assert client.queue_length() == 0
    counts = run.report()["counts"]
    assert 0 < counts["left"] < JOBS
    again = Run(tmp_path / "out", host.url)
    again.end(0)
    assert again.report()["counts"]["kept"] == counts["done"]
    assert images(run.out) == undisturbed


def test_a_killed_host_is_reported_and_another_one_at_its_address_completes_the_run(
    start_host: Callable[[], PrivateHost], tmp_path: Path, undisturbed: dict[str, bytes]
) -> None:
    with FaultProxy(None) as proxy:
        first = start_host()
        proxy.target = first.url
        run = Run(tmp_path / "out", proxy.url, wait=1)
        run.wait_for_images(2)
        os.kill(first.pid, signal.SIGKILL)
        messages = run.end(4)
        assert proxy.url in messages
        assert "The same command again runs only the jobs without images" in messages
        counts = run.report()["counts"]
        assert counts["done"] + counts["left"] == JOBS

        second = start_host()
        proxy.target = second.url
        waiting = Run(tmp_path / "waiting", proxy.url)
        waiting.wait_for_images(2)
        os.kill(second.pid, signal.SIGKILL)
        proxy.target = start_host().url  # while the run waits for it
        waiting.end(0)
        assert images(waiting.out) == undisturbed

        again = Run(tmp_path / "out", proxy.url)
        again.end(0)
        assert again.report()["counts"]["kept"] == counts["done"]
        assert images(run.out) == undisturbed


def test_slow_and_dead_servers_do_not_stop_the_others(
    proxy: FaultProxy, host: PrivateHost, tmp_path: Path, undisturbed: dict[str, bytes]
) -> None:
    proxy.delay = 0.3
    with FaultProxy(host.url) as dying:
        run = Run(tmp_path / "out", "http://127.0.0.1:9", dying.url, proxy.url, host.url, wait=0)
        run.wait_for_images(2)
        dying.target = None
        dying.cut()
        messages = run.end(0)
        assert "http://127.0.0.1:9 was left out: no server answers" in messages
        done = {server["url"]: server for server in run.report()["servers"]}
    assert done[dying.url]["error"]
    assert done[host.url]["done"] > done[proxy.url]["done"]
    assert images(run.out) == undisturbed


@pytest.mark.parametrize(("deaths", "status"), [(1, 0), (2, 4)])
def test_a_private_host_that_dies_is_started_again_once(
    deaths: int, status: int, tmp_path: Path, undisturbed: dict[str, bytes]
) -> None:
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    run = Run(tmp_path / "out", environment={"TMPDIR": str(temporary)})
    for death in range(deaths):
        run.wait_for_images(1 + 3 * death)
        (pid,) = processes(temporary)
        os.kill(pid, signal.SIGKILL)
    messages = run.end(status)
    assert messages.count("the private host went away; starting it again") == 1
    assert ("The end of its log" in messages.partition("starting it again. The end of its log")[2]) == (deaths == 2)
    assert list(temporary.glob("comfyui-ldm-*")) == []
    assert processes(temporary) == []
    if status == 0:
        assert images(run.out) == undisturbed


@pytest.mark.parametrize("moment", ["start", "run"])
def test_sigterm_leaves_nothing_of_the_private_host(moment: str, tmp_path: Path) -> None:
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    run = Run(tmp_path / "out", environment={"TMPDIR": str(temporary)})
    if moment == "run":
        run.wait_for_images(1)
    else:
        while not list(temporary.glob("comfyui-ldm-*/host.log")):
            time.sleep(0.01)
    run.process.send_signal(signal.SIGTERM)
    run.end(143)
    assert list(temporary.glob("comfyui-ldm-*")) == []  # torch leaves folders of its own there
    assert processes(temporary) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
@pytest.mark.parametrize("moment", ["start", "run", "frozen"])
def test_a_signal_ends_a_run_within_a_second(
    moment: str, number: signal.Signals, tmp_path: Path, host: PrivateHost
) -> None:
    """While its private host starts, or works; and while a server is frozen that it speaks with."""
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    servers = [host.url] if moment == "frozen" else []
    run = Run(tmp_path / "out", *servers, environment={"TMPDIR": str(temporary)})
    try:
        if moment == "start":
            while not list(temporary.glob("comfyui-ldm-*/host.log")):
                time.sleep(0.01)
            time.sleep(1)
        else:
            run.wait_for_images(1)
        if moment == "frozen":
            os.kill(host.pid, signal.SIGSTOP)
            time.sleep(0.3)
        start = time.monotonic()
        run.process.send_signal(number)
        run.process.wait(30)
        assert time.monotonic() - start < 1
    finally:
        os.kill(host.pid, signal.SIGCONT)
    run.end(128 + number)
    assert processes(temporary) == []
