"""Work for many workers: the protocol, and a pool of one worker in this process. Standard library only.

A pool takes items and yields results as they come, in any order, each exactly once. `RayPool` is the same on a cluster.
"""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from itertools import islice
from typing import Generic, Protocol, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")
_Item = TypeVar("_Item", contravariant=True)
_Result = TypeVar("_Result", covariant=True)


class Worker(Protocol[_Item, _Result]):
    """Something that is cheap to make, expensive to start, and then works on one item after the other."""

    def start(self) -> None:
        """Get ready for items. A worker that cannot go on itself raises WorkerLostError."""
        ...

    def __call__(self, item: _Item, /) -> _Result:
        """Work on one item. A worker that cannot go on itself raises WorkerLostError."""
        ...

    def stop(self) -> None:
        """Break off, soon, and free what it holds; also while it starts."""
        ...


class Pool(Protocol[_Item, _Result]):
    """Runs items through workers."""

    def map(self, items: Iterable[_Item]) -> Iterator[_Result]:
        """Results in any order; what a worker raises ends it."""
        ...


class LocalPool(Generic[Item, Result]):
    """One worker in this process.

    Args:
        factory: Makes the worker.
        in_flight: Calls at a time, each in a thread of its own.
    """

    def __init__(self, factory: Callable[[], Worker[Item, Result]], in_flight: int = 1) -> None:
        self._factory = factory
        self._in_flight = in_flight

    def map(self, items: Iterable[Item]) -> Iterator[Result]:
        """Results as they come; see `Pool.map`."""
        waiting = iter(items)
        worker = self._factory()
        executor = ThreadPoolExecutor(self._in_flight)
        running: set[Future[Result]] = set()
        stopped = False
        try:
            worker.start()
            while True:
                running |= {executor.submit(worker, item) for item in islice(waiting, self._in_flight - len(running))}
                if not running:
                    return
                ended, running = wait(running, return_when=FIRST_COMPLETED)
                for future in ended:
                    yield future.result()
        except (KeyboardInterrupt, SystemExit):
            stopped = True
            raise
        finally:
            worker.stop()
            executor.shutdown(wait=not stopped, cancel_futures=True)  # a step of a large batch may take a minute
