"""Answers that go on: server-sent events, for any route whose reply has `events`.

    counted ──head──► open ──events; comments while there are none──► closed, by one of
                                the source ended, the server stops, the reader is gone,
                                it reads nothing for EVENT_WRITE_S, it may see this no longer

A reader that is slower than the source holds the source up: nothing gathers here but one event and
what the transport buffers. Whoever was cut off takes up where it was with `Last-Event-ID`, which
the source understands. The credential is checked again while the stream is open, so that a revoked
one sees nothing more after PRINCIPAL_TTL_S.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable

from aiohttp import web

from taskforge_server.api.rest.routes import Event
from taskforge_server.engine import limits
from taskforge_server.engine.errors import CallerError, EnvironmentalError, Overloaded

log = logging.getLogger(__name__)

HEARTBEAT = b":\n\n"
RETRY = b"retry: %d\n\n" % limits.EVENT_RETRY_MS

Allowed = Callable[[], Awaitable[object]]
"""Raises when the reader may not see this any more."""


class EventStreams:
    """All open streams of this process."""

    def __init__(self) -> None:
        self.count = 0
        self._count_of: dict[bytes, int] = {}
        self._stopping = asyncio.Event()

    def stop(self) -> None:
        """End all streams, and each one that comes from now on after its head."""
        self._stopping.set()

    async def serve(
        self,
        request: web.BaseRequest,
        headers: dict[str, str],
        events: AsyncGenerator[Event, None],
        organization_id: bytes,
        allowed: Allowed,
    ) -> web.StreamResponse:
        """Send events as they come. Overloaded: too many are open."""
        count = self._count_of.get(organization_id, 0) + 1
        if self.count >= limits.EVENT_STREAMS_MAX or count > limits.EVENT_STREAMS_ORGANIZATION_MAX:
            await events.aclose()
            raise Overloaded(limits.OVERLOAD_RETRY_S, "too many streams are open")
        self.count += 1
        self._count_of[organization_id] = count
        answer = web.StreamResponse(headers=headers)
        # Proxies shall pass on each event as it comes, and keep none.
        answer.headers.update({"Cache-Control": "no-store", "X-Accel-Buffering": "no"})
        answer.force_close()
        try:
            await answer.prepare(request)
            await self._pump(answer, events, allowed)
            await answer.write_eof()
        except (ConnectionError, TimeoutError):
            _cut(request)  # gone, or as good as gone
        except Exception:
            log.exception("a stream of events failed")
            _cut(request)
        finally:
            self.count -= 1
            self._count_of[organization_id] -= 1
            if not self._count_of[organization_id]:
                del self._count_of[organization_id]
            await events.aclose()
        return answer

    async def _pump(
        self, answer: web.StreamResponse, events: AsyncGenerator[Event, None], allowed: Allowed
    ) -> None:
        loop = asyncio.get_running_loop()
        await _write(answer, RETRY)
        checked_s = loop.time()
        stopping = asyncio.ensure_future(self._stopping.wait())
        coming = asyncio.ensure_future(_next(events))
        try:
            while True:
                await asyncio.wait(
                    (coming, stopping),
                    timeout=limits.EVENT_HEARTBEAT_S,
                    return_when=asyncio.FIRST_COMPLETED,
                )
                if stopping.done():
                    return
                if loop.time() - checked_s >= limits.PRINCIPAL_TTL_S:
                    if not await _still(allowed):
                        return
                    checked_s = loop.time()
                if not coming.done():
                    await _write(answer, HEARTBEAT)
                    continue
                event = coming.result()
                if event is None:
                    return
                await _write(answer, encoded(event))
                coming = asyncio.ensure_future(_next(events))
        finally:
            coming.cancel()
            stopping.cancel()
            await asyncio.gather(coming, stopping, return_exceptions=True)


def encoded(event: Event) -> bytes:
    """As it goes over the wire; data of several lines keep them."""
    head = f"id: {event.id}\n" if event.id else ""
    if event.name:
        head += f"event: {event.name}\n"
    data = b"".join(b"data: " + line + b"\n" for line in event.data.splitlines() or (b"",))
    return head.encode() + data + b"\n"


async def _next(events: AsyncGenerator[Event, None]) -> Event | None:
    return await anext(events, None)


async def _write(answer: web.StreamResponse, data: bytes) -> None:
    async with asyncio.timeout(limits.EVENT_WRITE_S):
        await answer.write(data)


async def _still(allowed: Allowed) -> bool:
    try:
        await allowed()
    except CallerError:
        return False
    except EnvironmentalError:
        pass  # who may what cannot be looked up now: nor can what would be shown
    return True


def _cut(request: web.BaseRequest) -> None:
    if request.transport is not None:
        request.transport.abort()
