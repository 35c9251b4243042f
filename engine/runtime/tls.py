"""TLS of the HTTP server.

    files ──read, checked──► context ──► new connections
                                ▲ reload: the same files anew; what does not fit changes nothing

TLS 1.3 at least, for REST and worker streams alike. Connections that stand keep the certificate
they began with.
"""

import ssl
from pathlib import Path

from taskforge_server.engine.errors import ConfigError

SOURCE = "the files it names"


class ServerTls:
    """The certificate that the server shows, and its key."""

    def __init__(self, cert: Path, key: Path) -> None:
        """ConfigError when they cannot be read or do not belong together."""
        self._cert = cert
        self._key = key
        self.context = self._read()

    def reload(self) -> None:
        """Read the files anew: a certificate was renewed. ConfigError, and the old one stays."""
        self._read()  # into a context of its own first: half a change would break every handshake
        self.context.load_cert_chain(self._cert, self._key)

    def _read(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.set_alpn_protocols(["http/1.1"])
        try:
            # An empty password: a key that wants one is refused, instead of asking a terminal.
            context.load_cert_chain(self._cert, self._key, password="")
        except OSError as error:  # SSLError is one
            reason = getattr(error, "reason", None) or error.strerror or error
            problem = f"no use for {self._cert} with the key {self._key}: {reason}"
            raise ConfigError("tls_cert", SOURCE, problem) from error
        return context
