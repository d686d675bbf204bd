"""A private host as a worker of a pool: the prompt of a job in, what it left out.

Imports the client, private_host and host.install.
"""

import os
import socket
import threading
import time
import uuid
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any

from ..client.history import FileRef, Outputs, result_of
from ..client.sync_client import ComfyClient
from ..errors import (
    ConnectionLostError,
    HeadlessError,
    HostError,
    HostKilledError,
    PromptLostError,
    ServerError,
    WorkerLostError,
)
from ..host.install import find_host, own_pack
from ..host.private_host import PrivateHost
from ..workflows.workflow import Prompt


@dataclass(frozen=True)
class HostJob:
    """What a worker is given: the number of a job, what is submitted, and the files that this needs."""

    index: int
    prompt: Prompt
    extra_data: Mapping[str, Any]
    uploads: tuple[tuple[str, bytes], ...] = ()


@dataclass(frozen=True)
class HostAnswer:
    """What a worker gives back: what a job left, or why it left nothing."""

    index: int
    worker: str
    prompt_id: str
    seconds: float
    found: Outputs = field(default_factory=Outputs)
    files: tuple[tuple[FileRef, bytes], ...] = ()
    error: HeadlessError | None = None


class HostWorker:
    """One ComfyUI of its own and a client of it. Several calls at a time queue up there.

    The host and this checkout as its pack are those of the machine where the worker is; COMFYUI_PATH counts there, too.

    Args:
        threads: Of the host, on the CPU.
        expected: The `host_versions` without which pictures may differ.

    Raises:
        HostError: The host is not installed there.
    """

    def __init__(self, threads: int, expected: Mapping[str, str]) -> None:
        self.name = f"{socket.gethostname()}:{os.getpid()}"
        self._expected = expected
        self._starting = threading.Lock()
        self._stack = ExitStack()
        self._host = PrivateHost(find_host(), own_pack(), threads=threads)

    def start(self) -> None:
        """Start the host.

        Raises:
            HostError: It does not start, or has other versions.
            WorkerLostError: It was killed before it had any job.
        """
        with self._starting, ExitStack() as stack:
            try:
                stack.enter_context(self._host)
                self._client = stack.enter_context(ComfyClient(self._host.url))
                found = host_versions(self._client.system_stats())
            except (HostKilledError, ServerError) as failure:
                raise WorkerLostError(f"the private host of {self.name} went away: {failure}") from failure
            if found != self._expected:
                raise HostError(
                    f"the worker {self.name} has {found}, but the machine of the command {dict(self._expected)}; "
                    "install the same on all nodes"
                )
            self._stack = stack.pop_all()

    def __call__(self, job: HostJob) -> HostAnswer:
        """Run a job.

        Raises:
            WorkerLostError: The host went away.
        """
        started, prompt_id = time.monotonic(), str(uuid.uuid4())
        found, files = Outputs(), ()
        error: HeadlessError | None = None
        try:
            for name, data in job.uploads:
                self._client.upload(name, data)
            self._client.submit(job.prompt, job.extra_data, prompt_id)
            self._client.follow(prompt_id)
            found = result_of(self._client.all_outputs(prompt_id))
            files = tuple((ref, self._client.fetch(ref)) for ref in found.files)
        except HeadlessError as failure:
            if self._is_lost(failure):
                log = self._host.log_tail()
                self.stop()
                text = f"the private host of {self.name} went away: {failure}\nThe end of its log:\n{log}"
                raise WorkerLostError(text) from failure
            error = failure
        return HostAnswer(job.index, self.name, prompt_id, time.monotonic() - started, found, files, error)

    def stop(self) -> None:
        """End the host, and a start of it that another thread waits for."""
        self._host.stop()
        with self._starting:
            self._stack.close()

    def _is_lost(self, failure: HeadlessError) -> bool:
        """Whether it is the end of the host, and not of the job alone."""
        if isinstance(failure, ServerError) and not isinstance(failure, ConnectionLostError):
            try:
                self._client.system_stats()
            except ServerError:
                return True
        return isinstance(failure, ConnectionLostError | PromptLostError)


def host_versions(stats: Mapping[str, Any]) -> dict[str, str]:
    """What decides pixels, from a host's `/system_stats` and this package."""
    system = stats["system"]
    return {
        "comfyui": str(system.get("comfyui_version")),
        "torch": str(system.get("pytorch_version")),
        "ldm": version("comfyui-ldm"),
    }
