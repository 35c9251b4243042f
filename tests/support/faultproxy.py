"""A proxy between a client and its server that loses what it is told to lose.

    open          bytes go both ways
    lose_reply    what the server answers next is swallowed, and the connection cut: the client does
                  not learn what became of its last request
    blackhole     bytes go nowhere, connections stay: as when packets are dropped
    cut           all connections are closed; new ones are served
    refuse        all connections are closed, and so are new ones at once

It listens on a TCP port of the loopback; the server may be at a TCP port or a Unix socket.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

CHUNK_BYTES = 65_536


class FaultProxy:
    """One listening port before one server."""

    def __init__(self, target: Path | tuple[str, int]) -> None:
        self._target = target
        self._server: asyncio.Server | None = None
        self._pairs: dict[asyncio.Task[None], list[asyncio.StreamWriter]] = {}
        self._passing = asyncio.Event()
        self._passing.set()
        self._lose_reply = False
        self._refuse = False
        self.lost = asyncio.Event()
        """Set when a reply was swallowed."""
        self.port = 0

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        assert self._server is not None
        self._server.close()
        self.cut()
        await asyncio.gather(*self._pairs, return_exceptions=True)

    def lose_reply(self) -> None:
        """Swallow the next answer and cut its connection."""
        self._lose_reply = True
        self.lost.clear()

    def blackhole(self) -> None:
        """Let nothing through until `heal`."""
        self._passing.clear()

    def refuse(self) -> None:
        """Close all connections, and new ones, until `heal`."""
        self._refuse = True
        self.cut()

    def heal(self) -> None:
        """Pass everything again. What was held back comes through."""
        self._lose_reply = self._refuse = False
        self._passing.set()

    def cut(self) -> None:
        """Close all connections now."""
        for task in self._pairs:
            task.cancel()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._pairs[task] = [writer]
        try:
            if self._refuse:
                return
            up_reader, up_writer = await self._connect()
            self._pairs[task].append(up_writer)
            async with asyncio.TaskGroup() as group:
                group.create_task(self._forward(reader, up_writer, answers=False))
                group.create_task(self._forward(up_reader, writer, answers=True))
        except (OSError, ExceptionGroup, asyncio.CancelledError):
            pass  # a side went away, or a test cut the pair: both ends are closed below
        finally:
            for end in self._pairs.pop(task):
                end.transport.abort()

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if isinstance(self._target, Path):
            return await asyncio.open_unix_connection(str(self._target))
        return await asyncio.open_connection(*self._target)

    async def _forward(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, answers: bool
    ) -> None:
        while data := await reader.read(CHUNK_BYTES):
            await self._passing.wait()
            if answers and self._lose_reply:
                self._lose_reply = False
                self.lost.set()
                break
            writer.write(data)
            await writer.drain()
        raise ConnectionResetError


@asynccontextmanager
async def fault_proxy(target: Path | tuple[str, int]) -> AsyncIterator[FaultProxy]:
    """A running proxy."""
    proxy = FaultProxy(target)
    await proxy.start()
    try:
        yield proxy
    finally:
        await proxy.stop()
