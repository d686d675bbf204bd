"""Notes what a Python process does to files, network and other processes, from its very start.

Python imports a module of this name by itself. Each act is a JSON line in the file that HOST_WATCH names: its kind, and
the paths, addresses or commands. What native code does without Python goes unseen; the test looks at the folders too.
"""

import json
import os
import sys

WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
CHANGES = {"os.mkdir", "os.rmdir", "os.remove", "os.rename", "os.link", "os.symlink", "os.truncate", "os.chmod"}
NETWORK = {"socket.bind", "socket.connect", "socket.sendto", "socket.sendmsg", "socket.getaddrinfo"}
PROCESSES = {"subprocess.Popen", "os.system", "os.posix_spawn", "os.exec"}
log = os.open(os.environ["HOST_WATCH"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)


def note(event: str, arguments: tuple) -> None:
    """The audit hook."""
    if event == "open":
        path, _, flags = arguments
        if not isinstance(path, int) and flags & WRITING:
            write("write", [os.path.abspath(os.fsdecode(path))])
    elif event in CHANGES:
        paths = [path for path in arguments[:2] if isinstance(path, str | bytes | os.PathLike)]
        write("write", [os.path.abspath(os.fsdecode(path)) for path in paths])
    elif event in NETWORK:
        write("network", [str(argument) for argument in arguments if isinstance(argument, str | tuple)])
    elif event in PROCESSES:
        write("process", [str(argument) for argument in arguments[:2]])


def write(kind: str, found: list[str]) -> None:
    """A line of the log."""
    os.write(log, (json.dumps([kind, found]) + "\n").encode())


sys.addaudithook(note)
