"""The switch, the keys and sealed jobs over HTTP, and the commands of operators."""

import asyncio
import json
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from click.testing import Result
from typer.testing import CliRunner

from taskforge_server.api.auth.principals import Principal
from taskforge_server.api.cli.main import app
from taskforge_server.api.cli.serving import api_of
from taskforge_server.engine.model.permissions import Role, of_role
from taskforge_server.engine.node.node import Node
from taskforge_server.engine.store.pool import connect
from taskforge_server.engine.vault.masters import new_master_key
from taskforge_server.engine.vault.sealing import looks_sealed
from tests.support.engine_parts import done
from tests.support.real_node import Hand, arrives, prepared, running_node

MASTER = new_master_key("2026")


class Person:
    """Somebody in a session for a project, who calls the routes of a node."""

    def __init__(self, session: aiohttp.ClientSession, url: str, project_id: bytes) -> None:
        self._session = session
        self._url = url
        self.path = f"/v1/projects/{uuid.UUID(bytes=project_id)}/encryption"

    async def __call__(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        headers = {"Content-Type": "application/json", "Authorization": "Bearer of-a-session"}
        data = None if body is None else json.dumps(body)
        async with self._session.request(
            method, self._url + path, headers=headers, data=data
        ) as response:
            return response.status, json.loads(await response.read())


@asynccontextmanager
async def person(
    node: Node, project_id: bytes, role: Role = "admin", organization_id: bytes = b""
) -> AsyncIterator[Person]:
    organization_id = organization_id or await node.project_keys.organization_of(project_id)
    principal = Principal(
        organization_id, project_id, "user", b"u" * 16, of_role(role, in_project=True)
    )

    async def authenticate(header: str | None) -> Principal:
        return principal

    server = api_of(node)
    server.authenticator.authenticate = authenticate  # type: ignore[method-assign]
    port = await server.start("127.0.0.1", 0)
    try:
        async with aiohttp.ClientSession() as session:
            yield Person(session, f"http://127.0.0.1:{port}", project_id)
    finally:
        await server.stop(1.0)


async def test_an_admin_encrypts_a_project_and_nobody_notices(postgres_url: str) -> None:
    project_id = await prepared(postgres_url)
    async with (
        running_node(postgres_url, master_keys=MASTER, lease_ttl_s=30.0) as node,
        person(node, project_id) as call,
    ):
        assert await call("GET", call.path) == (200, {"encrypted": False, "data_keys": []})
        status, problem = await call("POST", call.path + "/rotate")
        assert (status, problem["code"]) == (409, "not_encrypted")
        status, state = await call("PATCH", call.path, {"encrypted": True})
        assert (status, state["encrypted"]) == (200, True)
        assert [key["number"] for key in state["data_keys"]] == [1]
        assert await call("PATCH", call.path, {"encrypted": True}) == (200, state)
        status, rotated = await call("POST", call.path + "/rotate")
        assert (status, [key["number"] for key in rotated["data_keys"]]) == (200, [2, 1])
        assert MASTER.partition(":")[2] not in json.dumps(rotated)

        queue = await Hand(node, project_id).queue()
        job = {"job_type": "send", "payload": {"to": "ada"}}
        status, made = await call("POST", "/v1/queues/mail/jobs", job)
        assert status == 201
        stored = await node.doors.job(uuid.UUID(made["id"]).bytes)
        assert stored is not None
        assert looks_sealed(stored[0]["payload"])
        worker, outlet = await Hand(node, project_id).worker(queue)
        await arrives(outlet, lambda: outlet.payloads() == [b'{"to": "ada"}'])
        error = b'{"type":"E","message":"secret","retryable":false}'
        await worker.receive([done(1, b"", (outlet.tokens()[0], 1, error))])
        _, failed = await call("GET", f"/v1/jobs/{made['id']}?wait=10")
        assert (failed["payload"], failed["last_error"]["message"]) == ({"to": "ada"}, "secret")
        assert [one["error"]["message"] for one in failed["executions"]] == ["secret"]

        _, again = await call("POST", f"/v1/jobs/{made['id']}/retry")
        assert (again["status"], again["payload"]) == ("pending", {"to": "ada"})
        await arrives(outlet, lambda: outlet.payloads() == [b'{"to": "ada"}'] * 2)
        await worker.receive([done(2, b"", (outlet.tokens()[1], 0, b'{"sent":true}'))])
        _, finished = await call("GET", f"/v1/jobs/{made['id']}?wait=10")
        assert finished["result"] == {"sent": True}
        late = job | {"delay_s": 3600}
        _, waiting = await call("POST", "/v1/queues/mail/jobs", late)
        _, cancelled = await call("POST", f"/v1/jobs/{waiting['id']}/cancel")
        assert (cancelled["status"], cancelled["payload"]) == ("cancelled", {"to": "ada"})
        await node.projector.flush()
        _, page = await call("GET", "/v1/jobs")
        assert [one["payload"] for one in page["items"]] == [{"to": "ada"}] * 2
        assert "taskforge:sealed" not in json.dumps(page)
        acts = await node.pool.fetch("SELECT action, before::text, after::text FROM audit_log")
        assert [tuple(act) for act in acts if act["action"].startswith(("enc", "data"))] == [
            (
                "encryption.enable",
                '{"data_keys":{},"encrypted":false}',
                '{"data_keys":{"1":"2026"},"encrypted":true}',
            ),
            (
                "data_key.create",
                '{"data_keys":{"1":"2026"},"encrypted":true}',
                '{"data_keys":{"1":"2026","2":"2026"},"encrypted":true}',
            ),
        ]


async def test_only_admins_of_the_organisation_may(postgres_url: str) -> None:
    project_id = await prepared(postgres_url)
    async with running_node(postgres_url, master_keys=MASTER) as node:
        async with person(node, project_id, "member") as call:
            assert (await call("GET", call.path))[0] == 200
            assert (await call("PATCH", call.path, {"encrypted": True}))[0] == 403
            assert (await call("POST", call.path + "/rotate"))[0] == 403
        async with person(node, project_id, "admin", b"o" * 16) as call:
            for method, path, body in (
                ("GET", call.path, None),
                ("PATCH", call.path, {"encrypted": True}),
                ("POST", call.path + "/rotate", None),
                ("GET", "/v1/projects/x/encryption", None),
            ):
                status, problem = await call(method, path, body)
                assert (status, problem["code"]) == (404, "project_not_found")
        assert not node.core.vault.active


def file_of(path: Path, name: str, older: Path) -> Path:
    path.write_text(f"{new_master_key(name)}\n{older.read_text()}")
    return path


async def test_the_commands_of_an_operator(postgres_url: str, tmp_path: Path) -> None:
    project_id = await prepared(postgres_url)
    name = str(uuid.UUID(bytes=project_id))
    old, new, file = tmp_path / "old.keys", tmp_path / "new.keys", tmp_path / "both.keys"

    async def run(*arguments: str, keys: Path | None = old) -> Result:
        options = ["--postgres-url", postgres_url]
        if keys is not None:
            options += ["--set", f"master_key_file={keys}"]
        return await asyncio.to_thread(CliRunner().invoke, app, ["keys", *arguments, *options])

    made = await asyncio.to_thread(CliRunner().invoke, app, ["keys", "new", "2026"])
    assert made.stdout.startswith("2026:")
    old.write_text(made.stdout)
    into_file = ["keys", "new", "2027", "--file", str(new)]
    made = await asyncio.to_thread(CliRunner().invoke, app, into_file)
    assert (made.stdout, new.stat().st_mode & 0o777) == ("", 0o600)
    again = await asyncio.to_thread(CliRunner().invoke, app, into_file)
    assert again.exit_code == 1, "no key is ever overwritten"
    file.write_text(new.read_text() + old.read_text())

    assert (await run("encrypt", name)).stdout == "encrypted\n"
    assert (await run("list")).stdout.splitlines() == [
        "2026: 1 data keys of 1 projects",
        "new keys are wrapped by 2026",
    ]
    async with running_node(postgres_url, master_key_file=old) as node:
        assert node.core.vault.active
        await node.signing_keys.ensure()
    assert (await run("list")).stdout.splitlines()[1] == "2026: 1 signing keys"
    missing = await run("rotate", keys=new)
    assert (missing.exit_code, "'2026' is not configured" in missing.output) == (2, True)
    rotated = await run("rotate", "--data-key", name, keys=file)
    assert rotated.stdout.splitlines() == [
        "1 data keys and 1 signing keys are under 2027 now.",
        f"{name}: data key 2 seals from now on.",
    ]
    assert (await run("list", keys=new)).stdout.splitlines()[:2] == [
        "2027: 2 data keys of 1 projects",
        "2027: 1 signing keys",
    ]
    assert "NOT CONFIGURED" in (await run("list", keys=old)).stdout
    assert (await run("encrypt", name, "--off", keys=new)).stdout == "not encrypted\n"
    connection = await connect(postgres_url, application_name="test")
    await connection.execute("UPDATE project_keys SET wrapped = $1 WHERE number = 1", bytes(60))
    await connection.close()
    damaged = await run("rotate", keys=file_of(tmp_path / "3", "2028", new))
    assert "1 data keys and 1 signing keys are under 2028 now" in damaged.stdout
    assert (damaged.exit_code, f"{name}: data key 1 cannot" in damaged.output) == (1, True)
    async with running_node(postgres_url, master_key_file=tmp_path / "3") as node:
        assert [key.id for key in await node.signing_keys.all()]
    assert (await run("encrypt", "x")).exit_code == 2
    assert (await run("encrypt", str(uuid.uuid4()))).exit_code == 1
    assert (await run("rotate", keys=None)).exit_code == 2
    assert (await run("list", keys=tmp_path / "none")).exit_code == 2


@pytest.mark.parametrize("content", ["", "# nothing\n", "c4n4ry", "a:c4n4ry!", b"\xff\xfe"])
async def test_a_file_without_keys_is_refused_without_showing_it(
    content: str | bytes, tmp_path: Path
) -> None:
    file = tmp_path / "master.keys"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    arguments = ["keys", "list", "--set", f"master_key_file={file}"]
    refused = await asyncio.to_thread(CliRunner().invoke, app, arguments)
    assert refused.exit_code == 2
    assert "master_key_file" in refused.output
    assert "c4n4ry" not in refused.output
