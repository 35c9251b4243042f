"""Keeps the leases of a worker alive, from a thread of its own.

A handler that blocks the event loop must not cost the leases of all others, so the heartbeat is a
plain HTTP request from a daemon thread: it ends with the process and needs nothing from the loop.
A loop that is blocked for WEDGED_AFTER_S is taken for dead, though: then the heartbeats stop and
the leases end, so that other workers get the jobs.
"""

import asyncio
import logging
import threading
from collections.abc import Callable
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from time import monotonic

from taskforge.limits import HEARTBEAT_TIMEOUT_S, WEDGED_AFTER_S
from taskforge.settings import Server

logger = logging.getLogger("taskforge.worker")


class Heartbeat:
    """Sends `POST /v1/workers/{id}/heartbeat` every `heartbeat_s` from `start` to `stop`.

    `on_unknown` is called in the loop when the server does not know the worker.
    """

    def __init__(
        self,
        server: Server,
        worker_id: str,
        loop: asyncio.AbstractEventLoop,
        on_unknown: Callable[[], None],
        *,
        wedged_after_s: float = WEDGED_AFTER_S,
    ) -> None:
        self._server = server
        self._path = f"{server.base_path}/v1/workers/{worker_id}/heartbeat"
        self._headers = {"Authorization": server.authorization, "Content-Length": "0"}
        self._loop = loop
        self._on_unknown = on_unknown
        self._wedged_after_s = wedged_after_s
        self._interval_s = 1.0
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None
        self._connection: HTTPConnection | None = None
        self._loop_seen_monotonic = monotonic()

    def start(self, interval_s: float) -> None:
        """Begin, or go on at another pace."""
        self._interval_s = interval_s
        self._loop_seen_monotonic = monotonic()
        if self._thread is None:
            self._thread = threading.Thread(
                target=self._run, name="taskforge-heartbeat", daemon=True
            )
            self._thread.start()

    def stop(self) -> None:
        """Send no more."""
        self._stopped.set()

    def _run(self) -> None:
        try:
            while not self._stopped.wait(self._interval_s):
                try:
                    self._loop.call_soon_threadsafe(self._see_loop)
                except RuntimeError:
                    return  # the loop is closed
                blocked_s = monotonic() - self._loop_seen_monotonic
                if blocked_s > self._wedged_after_s:
                    logger.error("blocked for %.0f s: the leases are left to end", blocked_s)
                elif self._beat() == 404:
                    self._tell_unknown()
        finally:
            self._close()

    def _see_loop(self) -> None:
        self._loop_seen_monotonic = monotonic()

    def _tell_unknown(self) -> None:
        try:
            self._loop.call_soon_threadsafe(self._on_unknown)
        except RuntimeError:
            pass  # the loop is closed

    def _beat(self) -> int:
        """One heartbeat, on a fresh connection if the kept one is dead; the status, 0 for none."""
        problem: Exception | None = None
        for _ in range(2):
            kept = self._connection is not None
            try:
                return self._request()
            except (OSError, HTTPException) as error:
                self._close()
                problem = error
                if not kept:
                    break
        logger.warning("heartbeat not delivered: %s", problem)
        return 0

    def _request(self) -> int:
        if self._connection is None:
            host, port, tls = self._server.host, self._server.port, self._server.tls
            self._connection = (
                HTTPConnection(host, port, timeout=HEARTBEAT_TIMEOUT_S)
                if tls is None
                else HTTPSConnection(host, port, timeout=HEARTBEAT_TIMEOUT_S, context=tls)
            )
        self._connection.request("POST", self._path, headers=self._headers)
        response = self._connection.getresponse()
        response.read()
        if response.status >= 400:
            logger.warning("heartbeat answered with status %d", response.status)
        return response.status

    def _close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None
