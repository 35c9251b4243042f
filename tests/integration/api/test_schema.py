"""Requests made from the OpenAPI document: the server keeps to what the document says.

Schemathesis makes requests, good and bad, for every operation of a real server, and compares the
answers with the document: status, media type, schema; no 5xx. Each operation that changes something
has an organisation of its own, whose admin asks in a session of a project; half of the ids are of
things that are there. Few examples each: what is hard to hit stands in the other files. `make fuzz`
makes many.
"""

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import Future
from typing import Any, TypeVar

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from taskforge_server.api.rest.openapi import document
from taskforge_server.api.rest.routes import Route
from taskforge_server.api.rest.table import ROUTES, STREAM_PATH
from taskforge_server.engine import limits
from taskforge_server.engine.model import permissions
from tests.support.estate import ENTERPRISE, make_key
from tests.support.people import Site, serving

T = TypeVar("T")

schema = schemathesis.openapi.from_dict(document(ROUTES))
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]
OPERATIONS = [route for route in ROUTES if route.path not in (STREAM_PATH, "/openapi.json")]
EXAMPLES = 8
EXAMPLES_LONG = 300


class Server:
    """A server in a thread of its own: schemathesis does not know asyncio."""

    def __init__(self, postgres_url: str) -> None:
        self._postgres_url = postgres_url
        self._loop = asyncio.new_event_loop()
        self._stop = asyncio.Event()
        self._started: Future[Site] = Future()
        self._readers: tuple[str, dict[str, str]] | None = None
        self._thread = threading.Thread(target=lambda: self._loop.run_until_complete(self._serve()))

    def __enter__(self) -> "Server":
        self._thread.start()
        self.site = self._started.result(30)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()
        self._loop.close()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """In the thread of the server."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(30)

    def tenant(self, route: Route) -> tuple[str, dict[str, str]]:
        """A credential for this operation, and ids of what is there; those that change nothing
        share an organisation."""
        if route.method != "GET":
            return self.run(tenant(self.site, route))
        if self._readers is None:
            self._readers = self.run(tenant(self.site, route))
        return self._readers

    async def _serve(self) -> None:
        try:
            async with serving(self._postgres_url) as site:
                self._started.set_result(site)
                await self._stop.wait()
        except BaseException as error:
            if not self._started.done():
                self._started.set_exception(error)
            raise


@pytest.fixture(scope="module")
def server(module_postgres_url: str) -> Iterator[Server]:
    with pytest.MonkeyPatch.context() as patched, Server(module_postgres_url) as started:
        patched.setattr(limits, "WAIT_S_MAX", 0.05)  # whoever asks for more waits as long
        yield started


async def tenant(site: Site, route: Route) -> tuple[str, dict[str, str]]:
    """A credential of a new organisation that may do this, and ids of what it has."""
    admin = await site.sign_up()
    organization_id = bytes.fromhex(admin.organization_id.replace("-", ""))
    await site.node.pool.execute(ENTERPRISE, organization_id)
    inside = await site.open_project(admin)
    assert (await site.post("/v1/queues", inside, {"name": "default"})).status == 201
    schedule = {"name": "nightly", "queue": "default", "cron": "@yearly"}
    schedule |= {"job": {"job_type": "t"}}
    assert (await site.post("/v1/schedules", inside, schedule)).status == 201
    job = await site.post("/v1/queues/default/jobs", inside, {"job_type": "t"})
    # Whoever waits for its end need not wait.
    await site.post(f"/v1/jobs/{job.json['id']}/cancel", inside)
    other = await site.member(admin)
    invited = await site.post("/v1/invitations", inside, {"email": f"x{other.email}"})
    key = await make_key(site, admin, admin.project_id, ["*"])
    there = {
        "queue": "default",
        "schedule": "nightly",
        "job_id": job.json["id"],
        "project_id": admin.project_id,
        "user_id": other.id,
        "invitation_id": invited.json["id"],
        "api_key_id": key["id"],
    }
    # The one permission that no person has.
    wants_key = route.permission == permissions.WORKERS_CONNECT
    return key["key"] if wants_key else inside.access_token, there


ENDLESS = ("followQueue", "followProject")
"""Their answers go on until the caller leaves."""


def keeps_to_the_document(
    server: Server, route: Route, examples: int, renew: Callable[[int], bool]
) -> None:
    """Try the operation; `renew` says at which example it gets another organisation."""
    if route.operation_id in ENDLESS:
        pytest.skip("its answer has no end: tests/integration/sdk/test_events.py follows it")
    operation = schema[route.path][route.method]
    text, there = server.tenant(route)
    tried = 0

    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        derandomize=True,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy())
    def run(case: schemathesis.Case) -> None:
        nonlocal tried, text, there
        tried += 1
        if renew(tried):
            text, there = server.tenant(route)
        for name in case.path_parameters:
            if tried % 2 and name in there:
                case.path_parameters[name] = there[name]
        case.call_and_validate(
            base_url=server.site.url, headers={"Authorization": f"Bearer {text}"}, checks=CHECKS
        )

    run()


def test_the_document_is_valid_openapi() -> None:
    schema.validate()


@pytest.mark.parametrize("route", OPERATIONS, ids=lambda route: route.operation_id)
def test_operations_keep_to_the_document(server: Server, route: Route) -> None:
    keeps_to_the_document(server, route, EXAMPLES, lambda tried: False)


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("route", OPERATIONS, ids=lambda route: route.operation_id)
def test_fuzz(server: Server, route: Route) -> None:
    keeps_to_the_document(server, route, EXAMPLES_LONG, lambda tried: tried % 100 == 0)
