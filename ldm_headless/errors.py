"""The headless branch of the error family, with the exit code of `ldm` on each class. Imports the backend's errors."""

from dataclasses import dataclass
from typing import Any

from ldm_backend.errors import JSONError as JSONError
from ldm_backend.errors import LDMError


class HeadlessError(LDMError):
    """Base of everything that `ldm_headless` raises on purpose."""

    exit_code = 1

    def __reduce__(self) -> tuple[Any, ...]:
        """Errors come back whole from another process, also those whose constructor takes more than the message."""
        return _rebuilt, (type(self), self.args, self.__dict__)


def _rebuilt(kind: type[HeadlessError], args: tuple[Any, ...], attributes: dict[str, Any]) -> HeadlessError:
    error = kind.__new__(kind, *args)
    error.__dict__.update(attributes)
    return error


class ArgumentError(HeadlessError):
    """A value of an option or argument that nothing could use."""

    exit_code = 2


class WorkflowError(HeadlessError):
    """A workflow file, or a value to set in it, that cannot be used."""

    exit_code = 2


class MissingNodesError(WorkflowError):
    """A graph in UI format needs node types that the host lacks; told before its validation would tell it."""

    exit_code = 3


class OutputError(HeadlessError):
    """An output folder, a name in it or a report that cannot be used."""

    exit_code = 2


class HostError(HeadlessError):
    """A host that is missing, cannot be installed, does not start or has died."""

    exit_code = 4


class HostKilledError(HostError):
    """A host that was ended by a signal during its start: by somebody, or for want of memory."""


class ServerError(HeadlessError):
    """A server that cannot be reached, or whose answer is not that of a ComfyUI."""

    exit_code = 4


class ConnectionLostError(ServerError):
    """The server went away while a prompt was waiting or running."""


@dataclass(frozen=True)
class NodeError:
    """One reason why the host refused a prompt. `node_id` is empty when the reason concerns the prompt as a whole."""

    node_id: str
    class_type: str
    type: str
    message: str
    details: str

    def __str__(self) -> str:
        where = f"node {self.node_id} ({self.class_type}): " if self.node_id else ""
        return f"{where}{self.message}" + (f": {self.details}" if self.details else "") + f" [{self.type}]"


class PromptRejectedError(HeadlessError):
    """The host's validation refused a prompt, in whole or in part."""

    exit_code = 3

    def __init__(self, node_errors: tuple[NodeError, ...]) -> None:
        self.node_errors = node_errors
        reasons = "".join(f"\n  {error}" for error in node_errors)
        super().__init__(
            f"the host refused the prompt for {len(node_errors)} reason(s); correct the workflow:{reasons}"
        )


class ExecutionError(HeadlessError):
    """A node raised while the prompt ran."""

    exit_code = 1

    def __init__(self, node_id: str, node_type: str, exception_type: str, exception_message: str) -> None:
        self.node_id = node_id
        self.node_type = node_type
        self.exception_type = exception_type
        self.exception_message = exception_message.strip()
        # A pack's own classes come with the full path of its folder.
        kind = exception_type.rpartition(".")[2]
        super().__init__(f"node {node_id} ({node_type}) failed: {kind}: {self.exception_message}")


class PromptInterruptedError(HeadlessError):
    """Somebody interrupted the prompt while it ran."""

    exit_code = 130


class NoImageError(HeadlessError):
    """A prompt ran to its end and left no image, no other file and no text."""


class OutputFileError(HeadlessError):
    """A file of a prompt that its server gives too large, or as something else than its name says."""


class OutputGoneError(OutputFileError):
    """A file of a prompt that its server no longer has."""


class RunFailedError(HeadlessError):
    """Some jobs of a run have no files. The exit code is that of the first reason."""

    def __init__(self, message: str, exit_code: int) -> None:
        self.exit_code = exit_code
        super().__init__(message)


class PromptLostError(HeadlessError):
    """The server knows nothing of the prompt: it was removed from the queue, or the server was restarted."""


class JobError(HeadlessError):
    """A generation or an evaluation that cannot be as asked for: its folder, seeds, settings or image files."""

    exit_code = 2


class GenerationError(HeadlessError):
    """A generation that broke off: an image cannot be written, or workers fail or are lost again and again."""


class VerificationError(HeadlessError):
    """A checkpoint that draws other pixels than the release it should be."""

    exit_code = 1


class WorkerLostError(HeadlessError):
    """A worker of a pool that cannot go on: another one takes what it had."""


class ClusterError(HeadlessError):
    """A Ray cluster that cannot be started or reached, or gives no worker."""

    exit_code = 4
