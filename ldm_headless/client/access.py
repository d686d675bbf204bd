"""What a secured server asks for: a token, headers, a query, a certificate. Imports the errors.

Secrets are kept here and in the address, whose `repr` leaves them out. They go into requests only: an address that is
shown or stored has none, and what a server says is shown without them.
"""

import base64
import os
import re
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import parse_qsl, unquote, urlsplit, urlunsplit

from ldm_backend.errors import printable

from ..errors import ServerError, WorkflowError

TOKEN_VARIABLE = "LDM_SERVER_TOKEN"  # nosec B105  # noqa: S105 - its name, no token
_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_VALUE = re.compile(r"[\x20-\x7e\t]+")
_SHORTEST_SECRET = 4  # shorter ones are in every other word
_MAX_HEADER_FILE = 64 * 2**10
_HIDDEN = "***"


@dataclass(frozen=True)
class Access:
    """How to be let in, by every server of a command.

    Args:
        headers: Sent with each request, WebSockets included.
        ca_file: Certificates that are trusted in the place of those of the system, for a self-signed one.
    """

    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    ca_file: Path | None = None

    def tls(self) -> ssl.SSLContext | None:
        """What checks the certificates of servers; None for the default.

        Raises:
            WorkflowError: The file holds no certificate.
        """
        if self.ca_file is None:
            return None
        try:
            return ssl.create_default_context(cafile=str(self.ca_file))
        except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
            detail = getattr(error, "strerror", None) or type(error).__name__
            raise WorkflowError(
                f"cannot read certificates from --ca-file {self.ca_file}: {detail}; expected a PEM file"
            ) from error


def read_access(header_file: Path | None, ca_file: Path | None) -> Access:
    """The access that the environment and the options give.

    Args:
        header_file: Lines of `Name: value`; empty ones, and those that begin with #, are left out.
        ca_file: As for `Access`.

    Raises:
        WorkflowError: A file cannot be read, or two of them say who we are. No message holds a value.
    """
    headers = _read_headers(header_file) if header_file else {}
    token = os.environ.get(TOKEN_VARIABLE, "").strip()
    if token:
        if not _VALUE.fullmatch(token):
            raise WorkflowError(f"{TOKEN_VARIABLE} holds characters that no header can; set it to the token alone")
        if "authorization" in {name.lower() for name in headers}:
            raise WorkflowError(
                f"{TOKEN_VARIABLE} is set, and {header_file} has a header Authorization too; keep one of them"
            )
        headers["Authorization"] = f"Bearer {token}"
    access = Access(headers, ca_file)
    access.tls()
    return access


def _read_headers(path: Path) -> dict[str, str]:
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_HEADER_FILE + 1)
        text = data.decode("ascii")
    except OSError as error:
        raise WorkflowError(f"cannot read --header-file {path}: {error.strerror}; check the path") from error
    except UnicodeDecodeError as error:
        raise WorkflowError(f"--header-file {path} is not plain ASCII; expected lines of `Name: value`") from error
    if len(data) > _MAX_HEADER_FILE:
        raise WorkflowError(f"--header-file {path} is larger than {_MAX_HEADER_FILE} bytes; expected a few headers")
    headers: dict[str, str] = {}
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        name, sign, value = (part.strip() for part in line.partition(":"))
        if not sign or not _NAME.fullmatch(name) or not _VALUE.fullmatch(value):
            raise WorkflowError(f"{path}, line {number}: expected `Name: value`, for example `X-Api-Key: ...`")
        headers[name] = value
    return headers


@dataclass(frozen=True)
class Address:
    """Of a server.

    Attributes:
        url: Without a final slash, user, password or query: it may be shown and stored.
        is_local: Whether it is on this machine.
        query: Of every request, such as a token.
        authorization: The header that user and password make; empty without them.
        password: For hiding it.
    """

    url: str
    is_local: bool
    query: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    authorization: str = field(default="", repr=False)
    password: str = field(default="", repr=False)

    def headers(self, access: Access) -> dict[str, str]:
        """All headers for this server.

        Raises:
            WorkflowError: The address and the access both say who we are.
        """
        headers = dict(access.headers)
        if self.authorization:
            if "authorization" in {name.lower() for name in headers}:
                raise WorkflowError(
                    f"the address of {self.url} has a user, and a header Authorization is given too; keep one of them"
                )
            headers["Authorization"] = self.authorization
        return headers

    def hide(self, text: str, access: Access) -> str:
        """A text of a server or a library without the secrets of its address and access."""
        secrets = {value for _, value in self.query} | set(access.headers.values()) | {self.password}
        secrets |= {value.partition(" ")[2] for value in self.headers(access).values()}
        for secret in sorted((part for part in secrets if len(part) >= _SHORTEST_SECRET), key=len, reverse=True):
            text = text.replace(secret, _HIDDEN)
        return text


def parse_address(base_url: str) -> Address:
    """Check a server's address, and take the secrets out of it.

    Raises:
        ServerError: It is none.
    """
    text = base_url.strip()
    try:
        if not text.isprintable() or " " in text:
            raise ValueError("no address")
        parts = urlsplit(text)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.port == 0:
            raise ValueError("no address")
        host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
        host.encode("idna" if not host.isascii() else "ascii")
    except ValueError as error:  # also a port that is no number, or too large
        bare = re.sub(r"//[^/]*@", "//", text.partition("?")[0])
        raise ServerError(
            f"{printable(bare)!r} is no server address; give one such as http://127.0.0.1:8188"
        ) from error
    port = f":{parts.port}" if parts.port else ""
    url = urlunsplit((parts.scheme, host + port, parts.path.rstrip("/"), "", ""))
    user, password = unquote(parts.username or ""), unquote(parts.password or "")
    authorization = ""
    if user or password:
        authorization = "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()
    query = tuple(parse_qsl(parts.query, keep_blank_values=True))
    return Address(url, parts.hostname in ("127.0.0.1", "localhost", "::1"), query, authorization, password)
