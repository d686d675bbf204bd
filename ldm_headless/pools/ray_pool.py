"""A pool of Ray actors that outlives the loss of any of them. Imports ray (when used), pool and the errors.

Ray's own restarts are off: an actor that Ray restarts waits for a free place with its items, while others are idle, and
where a node is gone for good there may never be one. Here the items of a lost actor go back to the head of the queue
and to whoever is free, and a new actor is asked for, which starts when the cluster has a place for it.
"""

import importlib
import logging
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Generic

from ldm_backend.errors import LDMError

from ..errors import ClusterError, GenerationError, WorkerLostError
from ..fault_log import tell
from .pool import Item, Result, Worker

logger = logging.getLogger("comfyui_ldm")

LOCAL = "local"
# At 0, Ray listens on 127.0.0.1 alone, on every system; by itself it resolves that address to one of the network.
_LOOPBACK_ONLY = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"
_ATTEMPTS = 3  # losses that one item may cause: it may be the item that kills
_MADE, _READY = object(), object()


@dataclass(frozen=True)
class Needs:
    """What Ray sets aside for one worker."""

    cpus: float = 1
    gpus: float = 0

    def places(self, resources: Mapping[str, float]) -> int:
        """How many such workers a cluster with these resources has room for, at least one."""
        room = resources.get("GPU", 0) / self.gpus if self.gpus else resources.get("CPU", 0) / self.cpus
        return max(1, int(room))


@dataclass(frozen=True)
class _Task:
    actor: Any
    item: Any  # _MADE while the actor has no place yet or makes its worker, _READY while it starts it
    losses: int = 0

    @property
    def is_job(self) -> bool:
        """Whether it has an item of the caller's."""
        return self.item is not _MADE and self.item is not _READY


@contextmanager
def ray_cluster(address: str) -> Iterator[dict[str, float]]:
    """A connection to a cluster; yields its resources, for example `{"CPU": 8.0, "GPU": 1.0}`.

    Args:
        address: "local" starts a cluster on this machine, reachable from this machine only, that ends with this
            process; "auto" or HOST:PORT joins one of which this machine is a node.

    Raises:
        ClusterError: Ray is not installed, does not start or is not there.
    """
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"  # read at import and by the processes that a local cluster starts
    os.environ["RAY_IGNORE_UNHANDLED_ERRORS"] = "1"  # of calls that ended with their worker: ours to tell
    if address == LOCAL:
        os.environ[_LOOPBACK_ONLY] = "0"
    ray = _ray()
    own = {"include_dashboard": False} if address == LOCAL else {}
    on_sigterm = signal.getsignal(signal.SIGTERM)  # Ray puts a handler of its own there
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, **own)
    except (ConnectionError, RuntimeError, ValueError, OSError) as error:
        raise ClusterError(
            f"no Ray cluster at {address}: {error}; run `ray start` on this machine, or take --ray local"
        ) from error
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, on_sigterm or signal.SIG_DFL)
    try:
        yield ray.cluster_resources()
    finally:
        ray.shutdown()


class RayPool(Generic[Item, Result]):
    """Workers in actors, inside `ray_cluster`.

    Args:
        factory: Makes a worker; it, items and results must be picklable, and their modules installed on each node.
        workers: How many to ask for. Those for which the cluster has no place yet start when it has.
        needs: Of one worker.
        in_flight: Calls of one worker at a time, each in a thread of its own if above 1.
        patience: Seconds without any worker ready or starting up after which to give up.
        on_loss: Told of each item whose worker was lost.
    """

    def __init__(
        self,
        factory: Callable[[], Worker[Item, Result]],
        workers: int,
        needs: Needs,
        in_flight: int = 1,
        patience: float = 600.0,
        on_loss: Callable[[Item], None] | None = None,
    ) -> None:
        self._factory = factory
        self._workers = workers
        self._needs = needs
        self._in_flight = in_flight
        self._patience = patience
        self._on_loss = on_loss
        self._running: dict[Any, _Task] = {}  # by the reference to the result
        self._again: deque[tuple[Item, int]] = deque()
        self._ready: list[Any] = []
        self._losses_in_a_row = 0

    def map(self, items: Iterable[Item]) -> Iterator[Result]:
        """Results as they come, each once, whatever happens to workers.

        Raises:
            ClusterError: No worker starts.
            GenerationError: An item loses one worker after the other, or a worker raises what is not of the family.
            LDMError: What a worker or the factory raises.
        """
        waiting = iter(items)
        try:
            for _ in range(self._workers):
                self._start_actor()
            while self._hand_out(waiting):
                yield from self._collect()
        finally:
            self._end()

    def _start_actor(self) -> None:
        ray = _ray()
        threads = self._in_flight + 1 if self._in_flight > 1 else 1  # one more, so that `stop` gets through
        options = {"num_cpus": self._needs.cpus, "num_gpus": self._needs.gpus, "max_concurrency": threads}
        # Spread out: an actor that starts where another one is already would share its memory bandwidth.
        actor = ray.remote(_Actor).options(scheduling_strategy="SPREAD", max_restarts=0, **options).remote()
        self._running[actor.make.remote(self._factory)] = _Task(actor, _MADE)

    def _hand_out(self, waiting: Iterator[Item]) -> bool:
        """Give items to workers that have room, the idle ones first; False when all items are done."""
        while self._ready:
            actor = min(self._ready, key=self._load)
            if self._load(actor) >= self._in_flight:
                break
            item, losses = self._again.popleft() if self._again else (next(waiting, _READY), 0)
            if item is _READY:
                break
            self._running[actor.call.remote(item)] = _Task(actor, item, losses)
        return not self._ready or any(task.is_job for task in self._running.values())

    def _load(self, actor: Any) -> int:
        return sum(task.actor is actor for task in self._running.values())

    def _collect(self) -> Iterator[Result]:
        """Wait for something to end: results, workers that are ready, and losses."""
        ray = _ray()
        ended, _ = ray.wait(list(self._running), timeout=self._patience if not self._ready else None)
        if not ended:
            raise ClusterError(
                f"no worker started within {self._patience:g} s; each needs {self._needs.cpus:g} CPU and "
                f"{self._needs.gpus:g} GPU, and the cluster has {ray.available_resources()} free"
            )
        for ref in ended:
            task = self._running.pop(ref, None)
            if task is None:  # went with another one of its actor
                continue
            try:
                result = ray.get(ref)
            except ray.exceptions.RayTaskError as error:
                raised = _raised_by_worker(error)
                if not isinstance(raised, WorkerLostError):
                    raise raised from None
                self._lose(task, raised)
                continue
            except ray.exceptions.RayError as error:
                self._lose(task, error)
                continue
            if task.item is _MADE:
                self._running[task.actor.start.remote()] = _Task(task.actor, _READY)
            elif task.item is _READY:
                self._ready.append(task.actor)
            else:
                self._losses_in_a_row = 0
                yield result

    def _lose(self, task: _Task, error: Exception) -> None:
        """Take everything back that the actor had, and ask for another one."""
        ray = _ray()
        mine = [(ref, other) for ref, other in self._running.items() if other.actor is task.actor]
        for ref, _ in mine:
            del self._running[ref]
        self._ready = [actor for actor in self._ready if actor is not task.actor]
        ray.kill(task.actor)  # it may be out of reach only, and must not go on
        lost = [other for other in (task, *(other for _, other in mine)) if other.is_job]
        self._losses_in_a_row += 1
        reason = str(error) if isinstance(error, WorkerLostError) else type(error).__name__  # Ray's is a page of text
        logger.warning("lost a worker; the %d item(s) that it had go to others: %s", len(lost), reason)
        if self._on_loss is not None:
            for other in lost:
                self._on_loss(other.item)
        if any(other.losses + 1 >= _ATTEMPTS for other in lost) or self._losses_in_a_row > _ATTEMPTS * self._workers:
            raise GenerationError(
                f"workers are lost again and again, the last one with: {error}; look into the logs of Ray"
            ) from error
        self._again.extendleft((other.item, other.losses + 1) for other in reversed(lost))
        self._start_actor()

    def _end(self) -> None:
        ray = _ray()
        placed = self._ready + [task.actor for task in self._running.values() if task.item is _READY]
        stops = [actor.stop.remote() for actor in placed]
        ray.wait(stops, num_returns=len(stops), timeout=10.0) if stops else None
        for actor in placed + [task.actor for task in self._running.values() if task.item is _MADE]:
            ray.kill(actor)


class _Actor:
    """Holds a worker. It is made by a call, not by the constructor: what the factory raises then reaches us whole."""

    def make(self, factory: Callable[[], Worker[Any, Any]]) -> None:
        self._worker = factory()

    def start(self) -> None:
        self._worker.start()

    def call(self, item: Any) -> Any:
        return self._worker(item)

    def stop(self) -> None:
        self._worker.stop()


def _ray() -> Any:
    """Ray, which is imported only when it is used, and is no part of most installations."""
    try:
        return importlib.import_module("ray")
    except ImportError as error:
        raise ClusterError("--ray needs Ray, which is not installed: pip install 'comfyui-ldm[ray]'") from error


def _raised_by_worker(error: Any) -> Exception:
    """Our own errors as they were; others are faults of ours, whose log has the trace of the worker."""
    cause = error.cause
    return cause if isinstance(cause, LDMError) else GenerationError(f"a worker failed: {tell(error)}")
