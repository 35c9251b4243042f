"""Where the server is and who we are: from arguments, else from the environment.

`TASKFORGE_URL` (default `http://localhost:8040`), `TASKFORGE_API_KEY`, and `TASKFORGE_CA_FILE` with
the authorities that an https server is trusted by (default: those of the system). Checked once, at
construction; a wrong value stops there, by its name.
"""

import os
import ssl
from dataclasses import dataclass, replace
from urllib.parse import urlsplit

URL_VARIABLE = "TASKFORGE_URL"
API_KEY_VARIABLE = "TASKFORGE_API_KEY"
CA_FILE_VARIABLE = "TASKFORGE_CA_FILE"
URL_DEFAULT = "http://localhost:8040"


@dataclass(frozen=True, slots=True)
class Server:
    """A server's address in its parts, and the key, or the token of a session; `base_path` has no
    slash at its end."""

    scheme: str
    host: str
    port: int
    base_path: str
    api_key: str = ""
    tls: ssl.SSLContext | None = None
    """How the server proves who it is; None for plain HTTP."""

    @property
    def origin(self) -> str:
        """Scheme, host and port."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}"

    @property
    def authorization(self) -> str:
        """The value of the Authorization header."""
        return f"Bearer {self.api_key}"

    def url(self, path: str) -> str:
        """The absolute URL of a path of the API."""
        return f"{self.origin}{self.base_path}{path}"

    def __repr__(self) -> str:
        return f"Server({self.origin}{self.base_path}, api_key=***)"


def server(
    url: str | None = None, api_key: str | None = None, ca_file: str | None = None
) -> Server:
    """The server named by the arguments or, where they are None, by the environment."""
    key = api_key if api_key is not None else os.environ.get(API_KEY_VARIABLE, "")
    if not key:
        raise ValueError(f"no API key: pass api_key or set {API_KEY_VARIABLE}")
    if not key.isascii() or not key.isprintable() or " " in key:
        raise ValueError("the API key has characters that no key has")
    return replace(address(url, ca_file), api_key=key)


def address(url: str | None = None, ca_file: str | None = None) -> Server:
    """The same without a key, for those who log in."""
    url = url if url is not None else os.environ.get(URL_VARIABLE, URL_DEFAULT)
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query:
        raise ValueError(f"{URL_VARIABLE} must look like http://host:port or https://host: {url!r}")
    port = parts.port or (443 if parts.scheme == "https" else 80)
    tls = _tls(ca_file) if parts.scheme == "https" else None
    return Server(parts.scheme, parts.hostname, port, parts.path.rstrip("/"), tls=tls)


def _tls(ca_file: str | None) -> ssl.SSLContext:
    """Trusts the authorities in the file alone, or those of the system where none is given."""
    path = ca_file if ca_file is not None else os.environ.get(CA_FILE_VARIABLE)
    try:
        return ssl.create_default_context(cafile=path or None)
    except OSError as error:  # SSLError is one
        raise ValueError(f"{CA_FILE_VARIABLE} names no certificates: {path!r}: {error}") from None
