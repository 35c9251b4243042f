"""TLS before a server that has none: the packaged PostgreSQL and Valkey are built without.

    client ──TLS──► TlsFront ──Unix socket──► server

A client of PostgreSQL first asks whether the server speaks TLS; `postgres` answers that. With
`refuses` the answer is no, as that of a server without TLS, or of somebody in between.
"""

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

CHUNK_BYTES = 65_536
REQUEST_BYTES = 8  # the length, and the number that asks for TLS


@asynccontextmanager
async def tls_front(
    target: Path,
    cert: Path,
    key: Path,
    *,
    postgres: bool = False,
    refuses: bool = False,
    host: str = "127.0.0.1",
) -> AsyncIterator[int]:
    """The port of a front before the server at this Unix socket."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    tasks: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            if postgres:
                await reader.readexactly(REQUEST_BYTES)
                writer.write(b"N" if refuses else b"S")
                await writer.drain()
                if not refuses:
                    await writer.start_tls(context)
            await _join(reader, writer, target)
        except (OSError, asyncio.IncompleteReadError):
            pass  # the client does not trust us, or is through
        finally:
            writer.close()
            tasks.discard(task)

    early = None if postgres else context
    server = await asyncio.start_server(serve, host, 0, ssl=early)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in list(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _join(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, target: Path) -> None:
    from_server, to_server = await asyncio.open_unix_connection(str(target))
    try:
        ways = {
            asyncio.create_task(_pump(reader, to_server)),
            asyncio.create_task(_pump(from_server, writer)),
        }
        await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        for way in ways:
            way.cancel()
        await asyncio.gather(*ways, return_exceptions=True)
    finally:
        to_server.close()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(CHUNK_BYTES):
        writer.write(data)
        await writer.drain()
