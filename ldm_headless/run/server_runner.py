"""Runs the jobs of a plan on one server or several. Imports the client and the record of the run.

Every server takes the next job when it is free, so a slow one does not hold up the others. A server that goes away is
given some time to come back; if it does not, its jobs are given to the others.
"""

import asyncio
import time
import uuid
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ..client.access import parse_address
from ..client.async_client import AsyncComfyClient
from ..client.events import Event
from ..client.history import raise_for_failure, result_of
from ..client.received import MAX_FILE
from ..errors import ConnectionLostError, HeadlessError, NoImageError, OutputGoneError, PromptLostError, ServerError
from .run_record import RunRecord

_AHEAD = 2  # prompts that a server holds: it need not wait for us between two
_MAX_ATTEMPTS = 3  # of a job whose server goes away each time: it may be what brings the server down
_PROBE_S = 0.5
_PART = 2**22  # bytes
_CANCEL_S = 0.5  # that taking back a prompt may take when we are stopped: a signal ends us within a second


@dataclass(frozen=True)
class Hooks:
    """What a run asks its caller and tells it.

    Attributes:
        admit: Returns when a server can be used, and raises why it cannot. One that takes long holds up nobody.
        revive: Whether a server that stays away could be started again.
        on_event: Told server, job and event.
    """

    admit: Callable[[AsyncComfyClient], Awaitable[object]]
    revive: Callable[[], Awaitable[bool]]
    on_event: Callable[[str, int, Event], None]


class Runner:
    """One run.

    Attributes:
        dead_servers: Address -> why it was given up.

    Args:
        record: What to do, and what became of it.
        clients: One for each server.
        patience: Seconds that a server may be away.
        hooks: To ask and to tell.
        max_file: Bytes of one file that are taken.
    """

    def __init__(
        self,
        record: RunRecord,
        clients: Sequence[AsyncComfyClient],
        patience: float,
        hooks: Hooks,
        max_file: int = MAX_FILE,
    ) -> None:
        self.dead_servers: dict[str, HeadlessError] = {}
        self._record, self._clients = record, clients
        self._patience, self._hooks, self._max_file = patience, hooks, max_file
        self._admissions: list[asyncio.Future[object]] = []
        self._pending: deque[int] = deque()
        self._held: dict[str, list[int]] = {client.base_url: [] for client in clients}
        self._adopted: dict[str, deque[tuple[int, str]]] = {client.base_url: deque() for client in clients}
        self._revivals = {client.base_url: asyncio.Lock() for client in clients}
        self._changed = asyncio.Event()

    async def run(self) -> None:
        """Run every job without complete output, and return when each has ended or no server is left."""
        for index in self._record.left:
            # A run that was killed may have left it with a server, which is asked first.
            self._held.get(self._submission(index)[0], self._pending).append(index)
        if self._record.unfinished:
            async with asyncio.TaskGroup() as group:
                for client in self._clients:
                    group.create_task(self._serve(client))

    async def _serve(self, client: AsyncComfyClient) -> None:
        admission = asyncio.ensure_future(self._hooks.admit(client))
        self._admissions.append(admission)
        await asyncio.wait([admission])
        if admission.cancelled():
            return
        error = admission.exception()
        if isinstance(error, HeadlessError):
            self._give_up(client.base_url, error)
            return
        admission.result()
        for index in self._held[client.base_url]:
            if not await self._adopt(index):
                self._pending.append(index)
        self._held[client.base_url].clear()
        self._changed.set()
        # Not `gather`: it returns when the first is cancelled, and the client would be closed under the other.
        async with asyncio.TaskGroup() as group:
            for _ in range(_AHEAD):
                group.create_task(self._work(client))

    async def _adopt(self, index: int) -> bool:
        """Whether the server to which this job was submitted still has it, and nothing went wrong with it there."""
        url, prompt_id = self._submission(index)
        for client in self._clients:
            if client.base_url == url:
                with suppress(HeadlessError):
                    if await client.knows(prompt_id):
                        raise_for_failure(prompt_id, await client.history(prompt_id) or {})
                        self._adopted[url].append((index, prompt_id))
                        self._changed.set()
                        return True
        return False

    def _submission(self, index: int) -> tuple[str, str]:
        """Server and prompt id of a job's last submission, empty if there was none."""
        url, prompt_id = self._record.journal.submissions.get(index, ("", ""))
        with suppress(ServerError):
            url = parse_address(url).url  # journals of before may hold a user or a query
        return url, prompt_id

    async def _work(self, client: AsyncComfyClient) -> None:
        """Take jobs until none is unfinished, or the server is given up."""
        while (job := await self._take(client.base_url)) is not None:
            index, prompt_id = job
            try:
                await self._run_job(client, index, prompt_id)
            except PromptLostError as error:
                self._give_back(index, error)
            except ServerError as error:
                # Only the server can tell whether it has the prompt: nobody else runs it before that is known.
                is_back = await self._is_back(client)
                retry = is_back and isinstance(error, ConnectionLostError) and not self._is_exhausted(index)
                if retry and await self._adopt(index):
                    continue
                self._give_back(index, error)
                if not is_back:
                    self._give_up(client.base_url, error)
            except HeadlessError as error:
                self._fail(index, error)

    async def _take(self, url: str) -> tuple[int, str | None] | None:
        while self._record.unfinished and url not in self.dead_servers:
            if self._adopted[url]:
                return self._adopted[url].popleft()
            if self._pending:
                return self._pending.popleft(), None
            self._changed.clear()
            await self._changed.wait()  # a job of another server may come back
        return None

    async def _run_job(self, client: AsyncComfyClient, index: int, prompt_id: str | None) -> None:
        """Submit (unless the server has it), follow, fetch, save."""
        result, plan = self._record.results[index], self._record.plan
        started = time.monotonic()
        adopted = prompt_id is not None
        prompt_id = prompt_id or str(uuid.uuid4())
        result.server, result.prompt_id = client.base_url, prompt_id
        try:
            result.attempts += 1
            if not adopted:
                for file in plan.uploads(index):
                    await client.upload(file.name, await _content(file.path))
                self._record.journal.note_submission(index, client.base_url, prompt_id)
                await client.submit(plan.prompt(index), plan.extra_data(index), prompt_id)
            await client.follow(prompt_id, lambda event: self._hooks.on_event(client.base_url, index, event))
        except asyncio.CancelledError:
            with suppress(HeadlessError, TimeoutError):
                async with asyncio.timeout(_CANCEL_S):
                    await client.cancel(prompt_id)
            raise
        try:
            found = result_of(await client.all_outputs(prompt_id))
            files = [(ref, self._record.scratch_file()) for ref in found.files]
            for ref, path in files:
                await client.download(ref, path, self._max_file)
        except (OutputGoneError, NoImageError):
            if not adopted:
                raise
            await self._run_job(client, index, None)  # what an earlier run left there is gone: once more
            return
        result.seconds = time.monotonic() - started
        self._record.save(index, found, files)
        self._note_end()

    def _give_back(self, index: int, error: HeadlessError) -> None:
        if self._is_exhausted(index):
            self._fail(index, error)
        else:
            self._pending.appendleft(index)
            self._changed.set()

    def _is_exhausted(self, index: int) -> bool:
        return self._record.results[index].attempts >= _MAX_ATTEMPTS

    def _fail(self, index: int, error: HeadlessError) -> None:
        self._record.fail(index, error)
        self._note_end()

    def _note_end(self) -> None:
        self._changed.set()
        if not self._record.unfinished:
            for admission in self._admissions:
                admission.cancel()

    async def _is_back(self, client: AsyncComfyClient) -> bool:
        """Wait for a server that went away, and have it started again if it stays away."""
        deadline = time.monotonic() + self._patience
        async with self._revivals[client.base_url]:
            while self._record.unfinished:
                with suppress(HeadlessError):
                    await client.system_stats()
                    return True
                if time.monotonic() > deadline:
                    return await self._hooks.revive()
                await asyncio.sleep(_PROBE_S)
        return True

    def _give_up(self, url: str, error: HeadlessError) -> None:
        self.dead_servers.setdefault(url, error)
        self._pending.extend([*self._held[url], *(index for index, _ in self._adopted[url])])
        self._held[url].clear()
        self._adopted[url].clear()
        self._changed.set()


async def _content(path: Path) -> bytes:
    """The bytes of a file. Not in a thread: the end of the process would wait for it."""
    data = bytearray()
    with path.open("rb") as stream:
        while part := stream.read(_PART):
            data += part
            await asyncio.sleep(0)
    return bytes(data)
