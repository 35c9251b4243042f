"""Requests made from the OpenAPI document: the server keeps to what the document says.

Schemathesis makes requests, good and bad, for every operation, and compares the answers with the
document: status, media type, schema; no 5xx. Few examples each: what is hard to hit stands in the
other files.
"""

import asyncio
import threading
from collections.abc import Iterator

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from prometheus_client import CollectorRegistry
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from taskforge_server.api.rest.openapi import document
from taskforge_server.api.rest.table import ROUTES, STREAM_PATH
from taskforge_server.api.server import ApiPorts, ApiServer
from taskforge_server.engine.model.queue import QueueSettings
from tests.integration.api.conftest import KEY, PROJECT
from tests.support.stub_engine import (
    NO_TENANTS,
    StubAudit,
    StubEngine,
    StubJobs,
    StubKeys,
    StubLogs,
    StubProjects,
    StubQueues,
)
from tests.support.stub_workers import NO_WORKERS

schema = schemathesis.openapi.from_dict(document(ROUTES))
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]
OPERATIONS = [
    (route.method, route.path)
    for route in ROUTES
    if route.path not in (STREAM_PATH, "/openapi.json")
]


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """A server in a thread of its own: schemathesis does not know asyncio."""
    started = threading.Event()
    ports: list[int] = []
    loop = asyncio.new_event_loop()
    stop = asyncio.Event()

    async def serve() -> None:
        queues, keys = StubQueues(), StubKeys()
        keys.add(KEY, PROJECT)
        await queues.create(PROJECT, "default", 0, QueueSettings())
        server = ApiServer(
            ApiPorts(
                engine=StubEngine(),
                queues=queues,
                jobs=StubJobs(),
                logs=StubLogs(),
                log_feed=StubLogs(),
                keys=keys,
                tenants=NO_TENANTS,
                workers=NO_WORKERS,
                projects=StubProjects(),
                audit=StubAudit(),
                registry=CollectorRegistry(),
                ready=list,
            )
        )
        ports.append(await server.start("127.0.0.1", 0))
        started.set()
        await stop.wait()
        await server.stop(1.0)

    thread = threading.Thread(target=lambda: loop.run_until_complete(serve()))
    thread.start()
    assert started.wait(10)
    yield f"http://127.0.0.1:{ports[0]}"
    loop.call_soon_threadsafe(stop.set)
    thread.join()
    loop.close()


def test_the_document_is_valid_openapi() -> None:
    schema.validate()


@pytest.mark.parametrize(("method", "path"), OPERATIONS, ids=lambda value: str(value))
def test_operations_keep_to_the_document(url: str, method: str, path: str) -> None:
    operation = schema[path][method]

    @settings(
        max_examples=12,
        deadline=None,
        database=None,
        derandomize=True,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy())
    def run(case: schemathesis.Case) -> None:
        if "queue" in case.path_parameters and len(case.path_parameters["queue"]) % 2:
            case.path_parameters["queue"] = "default"  # one that is there, half of the time
        case.call_and_validate(
            base_url=url, headers={"Authorization": f"Bearer {KEY}"}, checks=CHECKS
        )

    run()
