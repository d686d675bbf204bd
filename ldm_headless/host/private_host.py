"""A ComfyUI of our own, as a subprocess on a free loopback port.

Imports the client, host.install, held_signals, model_paths, scratch_folder, torch_probe and the errors.
"""

import logging
import os
import platform
import signal
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

from ..client.sync_client import ComfyClient
from ..errors import HostError, HostKilledError, ServerError
from .held_signals import held_signals
from .install import HostLocation, link_pack
from .model_paths import check_paths, write_model_paths
from .scratch_folder import ScratchFolder
from .torch_probe import has_gpu

logger = logging.getLogger("comfyui_ldm")

LOOPBACK = "127.0.0.1"
FOLDERS = ("models", "custom_nodes", "input", "output", "temp", "user")
MODEL_PATHS = "model-paths.yaml"
_LOG_TAIL_LINES = 30
_STOP_S = 10.0
_DEATH_S = 2.0  # between the last answer of a process that was killed and its end
_PORT_ATTEMPTS = 3
# The host's own modules must be found beside its main.py, and nothing of ours before them.
_DROPPED_VARIABLES = ("PYTHONPATH", "PYTHONHOME", "PYTHONSAFEPATH", "PYTHONSTARTUP", "PYTHONINSPECT")
_SECRETS = ("LDM_SERVER_TOKEN",)  # for servers of others
# Linux ends the host when we are killed and cannot stop it: the wish survives exec. Then become the host.
_DIE_WITH_PARENT = (
    "import ctypes, os, sys; ctypes.CDLL(None).prctl(1, 15); "
    "os.getppid() == int(sys.argv[1]) or sys.exit(1); os.execv(sys.executable, [sys.executable, *sys.argv[2:]])"
)


class PrivateHost:
    """A running ComfyUI that only this process knows of; a context manager.

    It sees the models of its checkout, which is otherwise left alone: what it writes goes into the base directory.

    On Linux it ends with the thread that started it, however that ends: start it from one that lives as long as the
    host is needed.

    Args:
        location: Which checkout, run by which interpreter.
        packs: Folder name in `custom_nodes` -> pack. No other pack is loaded.
        base_directory: Where the host keeps models, input, output and so on. Default: a temporary folder that is
            removed at the end. Given folders are kept.
        required_nodes: Node ids that must be in `/object_info`, or the start fails.
        arguments: More arguments for the host's `main.py`.
        cpu: Run without a GPU. Default: when torch in the host's interpreter sees none.
        threads: On the CPU. Other numbers may round otherwise. Default: what torch chooses there.
        timeout: Seconds that the start may take.
    """

    def __init__(
        self,
        location: HostLocation,
        packs: Mapping[str, Path] | None = None,
        base_directory: Path | None = None,
        *,
        required_nodes: Sequence[str] = (),
        arguments: Sequence[str] = (),
        cpu: bool | None = None,
        threads: int | None = None,
        timeout: float = 180.0,
    ) -> None:
        self.location = location
        self.packs = dict(packs or {})
        self.required_nodes = tuple(required_nodes)
        self.timeout = timeout
        self.url = ""
        self._arguments = tuple(arguments)
        self._cpu = cpu
        self._threads = threads
        self._scratch = None
        if base_directory is None:
            self._scratch = ScratchFolder()
            base_directory = self._scratch.path
        self.base_directory = base_directory.resolve()
        self.log_path = self.base_directory / "host.log"
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def pid(self) -> int:
        """The host's process id.

        Raises:
            HostError: The host does not run.
        """
        if self._process is None:
            raise HostError("the private host is not running; use it as a context manager or call start()")
        return self._process.pid

    def start(self) -> None:
        """Start the host and wait until it answers and knows the required nodes.

        Raises:
            HostError: It cannot be in its folders, died, took too long, or lacks a required node. The message ends with
                the log's last lines, if any.
        """
        check_paths(self.location.path, self.base_directory)
        for folder in FOLDERS:
            (self.base_directory / folder).mkdir(parents=True, exist_ok=True)
        for name, pack in self.packs.items():
            if not (self.base_directory / "custom_nodes" / name).exists():
                link_pack(pack, self.base_directory / "custom_nodes", name)
        write_model_paths(self.location.path / "models", self.base_directory / MODEL_PATHS)
        if self._cpu is None:
            self._cpu = not has_gpu(self.location.python)
        for attempt in range(1, _PORT_ATTEMPTS + 1):
            self._spawn(_free_port())
            try:
                self._wait_until_ready()
                break
            except HostError:
                # Somebody may have taken the port between our asking for it and the host's binding it.
                if attempt == _PORT_ATTEMPTS or "address already in use" not in self.log_tail():
                    raise
                self._end_process()
        self._check_nodes()

    def revive(self) -> bool:
        """Start the host again, at the same address, if it has died.

        Returns:
            Whether it was started. One that lives and does not answer is left alone.

        Raises:
            HostError: As for `start`.
        """
        process, port = self._process, urlsplit(self.url).port
        if process is None or port is None:
            return False
        try:
            process.wait(_DEATH_S)
        except subprocess.TimeoutExpired:
            return False
        self._end_process()
        self._spawn(port)
        self._wait_until_ready()
        return True

    @held_signals()
    def stop(self) -> None:
        """End the host and everything that it started; remove its folder if it was temporary."""
        self._end_process()
        if self._scratch is not None:
            self._scratch.remove()

    def log(self) -> str:
        """Everything that the host has printed so far."""
        return self.log_path.read_text(encoding="utf-8", errors="replace") if self.log_path.is_file() else ""

    def log_tail(self) -> str:
        """The last lines of the log."""
        return "\n".join(self.log().splitlines()[-_LOG_TAIL_LINES:])

    def _command(self, port: int) -> list[str]:
        main = self.location.path / "main.py"
        command = [str(main), "--listen", LOOPBACK, "--port", str(port), "--base-directory", str(self.base_directory)]
        command += ["--extra-model-paths-config", str(self.base_directory / MODEL_PATHS)]
        command += ["--disable-auto-launch", "--disable-all-custom-nodes"]
        known = _known_flags(self.location.path)
        if self.packs:
            command += ["--whitelist-custom-nodes", *self.packs]
        if "--disable-api-nodes" in known:
            command.append("--disable-api-nodes")
        if '"--offline"' in known:  # a run needs nothing from elsewhere
            command.append("--offline")
        if "--database-url" in known:
            command += ["--database-url", "sqlite:///:memory:"]
        if self._cpu:
            command.append("--cpu")
        command += self._arguments
        launcher = ["-c", _DIE_WITH_PARENT, str(os.getpid())] if platform.system() == "Linux" else []
        return [self.location.python, *launcher, *command]

    @held_signals()
    def _spawn(self, port: int) -> None:
        self.url = f"http://{LOOPBACK}:{port}"
        environment = {name: value for name, value in os.environ.items() if name not in _DROPPED_VARIABLES + _SECRETS}
        if self._threads is not None:
            environment["OMP_NUM_THREADS"] = str(self._threads)
        with self.log_path.open("wb") as log:
            try:
                self._process = subprocess.Popen(
                    self._command(port),
                    cwd=self.location.path,
                    env=environment,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    # Its own process group: stopped as a whole, and Ctrl-C reaches us first.
                    start_new_session=True,
                )
            except OSError as error:
                raise HostError(f"cannot run {self.location.python}: {error}; correct COMFYUI_PYTHON") from error

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + self.timeout
        with ComfyClient(self.url, timeout=5.0) as client:
            while time.monotonic() < deadline:
                process = self._process
                if process is None or process.poll() is not None:
                    status = process.returncode if process else "unknown, since it was stopped"
                    error = HostKilledError if process and process.returncode < 0 else HostError
                    raise self._failure(f"died during its start with exit code {status}", error)
                try:
                    arguments = client.system_stats()["system"].get("argv", [])
                except ServerError:
                    time.sleep(0.1)
                    continue
                # Another ComfyUI on a port that ours could not get would answer as well.
                if str(self.base_directory) in arguments:
                    return
                time.sleep(0.1)
        raise self._failure(f"did not answer within {self.timeout:g} s")

    def _check_nodes(self) -> None:
        with ComfyClient(self.url) as client:
            present = client.object_info()
        missing = [node for node in self.required_nodes if node not in present]
        if missing:
            raise self._failure(f"lacks the nodes {', '.join(missing)}: the pack did not load")

    def _failure(self, what: str, error: type[HostError] = HostError) -> HostError:
        return error(f"ComfyUI in {self.location.path} {what}. The end of its log:\n{self.log_tail()}")

    @held_signals()
    def _end_process(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        _signal_group(process, signal.SIGTERM)
        try:
            process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            logger.warning("the private host did not stop within %g s; killing it", _STOP_S)
        # Also after a clean end: what it started may still be there.
        _signal_group(process, getattr(signal, "SIGKILL", signal.SIGTERM))
        process.wait()


def _signal_group(process: subprocess.Popen[bytes], number: int) -> None:
    if os.name != "posix":
        process.terminate()
        return
    try:
        os.killpg(process.pid, number)
    except ProcessLookupError:
        return


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        return int(probe.getsockname()[1])


def _known_flags(checkout: Path) -> str:
    """The text that defines the host's flags: older hosts refuse the ones that they do not know."""
    return (checkout / "comfy" / "cli_args.py").read_text(encoding="utf-8")
