"""Encrypted projects on a real node: nothing readable is stored, and everybody reads as before."""

import json
import logging
import secrets
from pathlib import Path
from typing import Any

import msgpack
import pytest

from taskforge_server.api.cli.embedded import EmbeddedServers
from taskforge_server.api.service.encryption import UNREADABLE, Opener
from taskforge_server.engine.cluster.memory import Exchange, MemoryCluster
from taskforge_server.engine.errors import ConfigError, Conflict, KeyConflict, Unavailable
from taskforge_server.engine.model.audit import OPERATOR
from taskforge_server.engine.model.queue import QueueRef
from taskforge_server.engine.node.checking import check_database
from taskforge_server.engine.node.node import Node
from taskforge_server.engine.node.projectkeys import ProjectKeyring
from taskforge_server.engine.shard.keys import KeyedRequest
from taskforge_server.engine.store.execution_logs import ExecutionLogs
from taskforge_server.engine.store.job_queries import JobFilter, JobQueries
from taskforge_server.engine.store.pool import Connection, connect
from taskforge_server.engine.vault.masters import MasterKeys, new_master_key, parse_master_keys
from taskforge_server.engine.vault.sealing import looks_sealed
from taskforge_server.engine.vault.vault import Vault
from taskforge_server.ext.table import SubmitBatch
from tests.support.engine_parts import done
from tests.support.real_node import Hand, arrives, config_for, kill, prepared, running_node
from tests.support.sealed import encrypt, places_of

MASTER = new_master_key("2026")


class Encrypted(Hand):
    """A hand that submits what a test gives it, and reads as the API does."""

    async def send(self, queue: QueueRef, payload: bytes, key: KeyedRequest | None = None) -> bytes:
        batch = SubmitBatch()
        batch.add("send", payload)
        ids, _ = await self.node.doors.submit_once(queue, batch, key)
        return ids

    async def read(self, job_id: bytes) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        """From memory, or from the tables."""
        found = await self.node.doors.job(job_id)
        if found is None:
            await self.node.projector.flush()
            found = await JobQueries(self.node.pool).get(self.project_id, job_id)
        assert found is not None
        return await Opener(self.node.core.vault, self.node.keyring).found(*found)


async def test_a_canary_is_in_no_table_no_log_and_no_file(
    postgres_url: str, servers: EmbeddedServers, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    project_id = await prepared(postgres_url)
    canary = "c4n4ry" + secrets.token_hex(8)
    payload, result = (json.dumps({name: canary}).encode() for name in ("payload", "result"))
    error = json.dumps({"type": canary, "message": canary, "retryable": False}).encode()
    async with running_node(
        postgres_url, master_keys=MASTER, log_retention_all=True, log_level="debug"
    ) as node:
        await encrypt(node, project_id)
        hand = Encrypted(node, project_id)
        queue = await hand.queue()
        worker, outlet = await hand.worker(queue)
        good = await hand.send(queue, payload)
        bad = await hand.send(queue, payload, KeyedRequest("key", b"h" * 32))
        await arrives(outlet, lambda: len(outlet.tokens()) == 2)
        assert outlet.payloads() == [payload, payload]
        tokens = outlet.tokens()
        line = [1, 0, canary, json.dumps({"meta": canary}).encode()]
        await worker.receive([msgpack.packb([6, 1, [[tokens[0], 1, [line]]]])])
        await worker.receive([done(1, b"", (tokens[0], 0, result), (tokens[1], 1, error))])
        await arrives(outlet, lambda: outlet.of(12))
        await node.log_writer.flush()
        refused = SubmitBatch()
        refused.add("send", b'"' + canary.encode() + b'\\u0000"')  # what no table takes
        await node.doors.submit(queue, refused)
        waiting = await hand.send(queue, payload)
        await node.projector.flush()

        job, executions = await hand.read(good)
        assert (job["payload"], job["output"]) == (payload, result)
        assert [one["output"] for one in executions] == [result]
        job, executions = await hand.read(bad)
        assert (job["payload"], job["output"]) == (payload, error)
        assert [one["error"] for one in executions] == [error]
        listed, _ = await JobQueries(node.pool).page(project_id, [queue.id], JobFilter())
        opened = await Opener(node.core.vault).jobs(project_id, listed)
        assert [one["payload"] for one in opened if one["id"] == waiting] == [payload]
        execution = next(one["id"] for one in (await hand.read(good))[1])
        lines, _ = await ExecutionLogs(node.pool).page(project_id, good, [execution])
        assert [line.message for line in lines] != [canary]
        (line,) = await Opener(node.core.vault).lines(project_id, lines)
        assert (line.message, json.loads(line.metadata)) == (canary, {"meta": canary})
        assert await node.pool.fetchval("SELECT count(*) FROM shard_log") > 0
        found = await places_of(node.pool, Path(servers.postgres.folder), canary)
    assert await check_database(config_for(postgres_url, log_retention_all=True)) == []
    assert found == []
    assert canary not in caplog.text


async def test_the_search_for_canaries_finds_them_in_a_project_that_is_not_encrypted(
    postgres_url: str, servers: EmbeddedServers
) -> None:
    project_id = await prepared(postgres_url)
    canary = "c4n4ry" + secrets.token_hex(8)
    async with running_node(postgres_url, master_keys=MASTER, log_retention_all=True) as node:
        hand = Encrypted(node, project_id)
        await hand.send(await hand.queue(), json.dumps(canary).encode())
        await node.projector.flush()
        found = await places_of(node.pool, Path(servers.postgres.folder), canary)
    assert "shard_log" in found
    assert any(name.startswith("pg_wal") for name in found)


async def test_a_node_that_takes_over_opens_what_the_one_before_sealed(postgres_url: str) -> None:
    project_id = await prepared(postgres_url)
    node = Node(
        config_for(postgres_url, master_keys=MASTER),
        lambda node_id: MemoryCluster(Exchange(), node_id),
    )
    await node.start()
    await encrypt(node, project_id)
    hand = Encrypted(node, project_id)
    queue = await hand.queue()
    job_id = await hand.send(queue, b'{"to":1}')
    await kill(node)
    async with running_node(postgres_url, master_keys=MASTER) as node:
        hand = Encrypted(node, project_id)
        _, outlet = await hand.worker(queue)
        await arrives(outlet, lambda: outlet.payloads() == [b'{"to":1}'])
        assert (await hand.read(job_id))[0]["payload"] == b'{"to":1}'


async def test_keys_that_another_node_made_are_read_once_it_is_fenced(postgres_url: str) -> None:
    """The later node has read the keys before the other one made them, and hears no news."""
    project_id = await prepared(postgres_url)
    clusters = iter([Exchange(), Exchange()])
    async with running_node(postgres_url, next(clusters), master_keys=MASTER) as first:
        hand = Encrypted(first, project_id)
        queue = await hand.queue()
        second = Node(
            config_for(postgres_url, master_keys=MASTER),
            lambda node_id: MemoryCluster(next(clusters), node_id),
        )
        fenced = second._read_queues

        async def late() -> object:
            # Between the first read of the second node and its takeover. The first one, to which
            # the other does not seem alive, must not take its shards back.
            first.ownership.wanted = frozenset()
            await encrypt(first, project_id)
            await hand.send(queue, b'{"to":2}')
            return await fenced()

        second._read_queues = late  # type: ignore[method-assign,assignment]
        await second.start()
        _, outlet = await Encrypted(second, project_id).worker(queue)
        await arrives(outlet, lambda: outlet.payloads() == [b'{"to":2}'])
        await second.stop()


async def test_a_reader_on_a_node_that_heard_no_news_finds_the_new_key(postgres_url: str) -> None:
    """The keys are read anew when a text needs one that is not known."""
    project_id = await prepared(postgres_url)
    async with running_node(postgres_url, master_keys=MASTER) as node:
        vault = Vault()
        elsewhere = ProjectKeyring(
            node.project_keys, node.masters, vault, MemoryCluster(Exchange(), "elsewhere")
        )
        await elsewhere.start()
        await encrypt(node, project_id)
        hand = Encrypted(node, project_id)
        job_id = await hand.send(await hand.queue(), b'"secret"')
        found = await node.doors.job(job_id)
        assert found is not None
        assert (await Opener(vault).found(*found))[0]["payload"] != b'"secret"'
        assert (await Opener(vault, elsewhere).found(*found))[0]["payload"] == b'"secret"'


async def test_data_keys_and_master_keys_rotate_while_work_goes_on(postgres_url: str) -> None:
    project_id = await prepared(postgres_url)
    newer = new_master_key("2027")
    async with running_node(postgres_url, master_keys=MASTER) as node:
        organization_id = await encrypt(node, project_id)
        hand = Encrypted(node, project_id)
        queue = await hand.queue()
        before = await hand.send(queue, b'"before"')
        state = await node.project_keys.add(
            organization_id, project_id, node.masters.new_key, OPERATOR
        )
        assert [key.number for key in state.keys] == [2, 1]
        await node.keyring.changed(project_id)
        after = await hand.send(queue, b'"after"')
        ids = {
            job_id: (await node.doors.job(job_id))[0]["payload"][:50] for job_id in (before, after)
        }
        assert ids[before][:35] != ids[after][:35]
        worker, outlet = await hand.worker(queue)
        await arrives(outlet, lambda: outlet.payloads() == [b'"before"', b'"after"'])
        await worker.receive([done(1, b"".join(outlet.tokens()))])
        await arrives(outlet, lambda: outlet.of(12))
    both = MasterKeys(parse_master_keys(f"{newer},{MASTER}"))
    async with running_node(postgres_url, master_keys=f"{newer},{MASTER}") as node:
        assert await node.project_keys.rewrap(both.rewrap, OPERATOR) == 2
        assert await node.project_keys.rewrap(both.rewrap, OPERATOR) == 0
        assert await node.project_keys.masters() == [("2027", 2, 1)]
    async with running_node(postgres_url, master_keys=newer) as node:
        hand = Encrypted(node, project_id)
        assert (await hand.read(before))[0]["payload"] == b'"before"'
        assert (await hand.read(after))[0]["payload"] == b'"after"'
        actions = [
            row["action"]
            for row in await node.pool.fetch("SELECT action FROM audit_log ORDER BY sequence")
        ]
        assert [action for action in actions if not action.startswith("queue.")] == [
            "encryption.enable",
            "data_key.create",
            "data_key.rewrap",
        ]


@pytest.mark.parametrize(
    ("master_keys", "problem"),
    [
        (None, "no master key is given"),
        (new_master_key("2027"), "'2026', which is not given"),
        (new_master_key("2026"), "is not what wrapped"),
    ],
    ids=["none", "another", "wrong"],
)
async def test_a_node_without_the_master_key_does_not_start(
    postgres_url: str, master_keys: str | None, problem: str
) -> None:
    project_id = await prepared(postgres_url)
    async with running_node(postgres_url, master_keys=MASTER) as node:
        await encrypt(node, project_id)
    with pytest.raises(ConfigError, match=problem) as refused:
        async with running_node(postgres_url, master_keys=master_keys):
            pass
    assert MASTER.partition(":")[2] not in str(refused.value)


async def test_what_was_moved_between_jobs_is_not_given_to_a_worker(
    postgres_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    project_id = await prepared(postgres_url)
    late_us = 3_600_000_000
    async with running_node(postgres_url, master_keys=MASTER) as node:
        await encrypt(node, project_id)
        hand = Encrypted(node, project_id)
        queue = await hand.queue()
        batch = SubmitBatch()
        for number in (b"1", b"2"):
            batch.add("send", number, 0, node.clock.now_us() + late_us)
        ids = await node.doors.submit(queue, batch)
        first, second = ids[:16], ids[16:]
        await node.projector.flush()
    moving = await prepared_connection(postgres_url)
    try:
        await moving.execute(
            "UPDATE jobs SET payload = (SELECT payload FROM jobs WHERE id = $2), "
            "scheduled_for = now() WHERE id = $1",
            first,
            second,
        )
    finally:
        await moving.close()
    async with running_node(postgres_url, master_keys=MASTER) as node:
        hand = Encrypted(node, project_id)
        _, outlet = await hand.worker(queue)
        node.core.due_timer.note(1)
        await node.doors.wait_finished(first, 10.0)
        job, _ = await hand.read(first)
        assert (job["status"], job["reason"]) == ("failed", "not_retryable")
        assert json.loads(job["output"])["type"] == "payload_unreadable"
        assert job["payload"] == UNREADABLE
        assert outlet.payloads() == []
        after = await hand.send(queue, b'"after"')
        await arrives(outlet, lambda: outlet.payloads() == [b'"after"'])
        assert await hand.status(after) == "processing"
    assert first.hex() in caplog.text


async def test_jobs_wait_while_the_keys_of_their_project_cannot_be_read(postgres_url: str) -> None:
    project_id = await prepared(postgres_url)
    async with running_node(postgres_url, master_keys=MASTER) as node:
        await encrypt(node, project_id)
        other = await node.pool.fetchval(
            "INSERT INTO projects (organization_id, name) SELECT organization_id, 'other' "
            "FROM projects RETURNING id"
        )
        await encrypt(node, other)
        hand = Encrypted(node, project_id)
        queue = await hand.queue()
        job_id = await hand.send(queue, b"1")
    connection = await prepared_connection(postgres_url)
    try:
        wrapped = await connection.fetchval(
            "SELECT wrapped FROM project_keys WHERE project_id = $1", project_id
        )
        damage = "UPDATE project_keys SET wrapped = $2 WHERE project_id = $1"
        await connection.execute(damage, project_id, bytes(60))
        async with running_node(postgres_url, master_keys=MASTER) as node:
            hand = Encrypted(node, project_id)
            _, outlet = await hand.worker(queue)
            with pytest.raises(Unavailable, match="key of this project"):
                await hand.send(queue, b"2")
            assert await hand.status(job_id) == "pending"
            await connection.execute(damage, project_id, wrapped)
            await node.keyring.read()
            await arrives(outlet, lambda: outlet.payloads() == [b"1"])
    finally:
        await connection.close()


async def test_a_job_from_before_the_switch_is_sealed_when_it_runs_again(postgres_url: str) -> None:
    project_id = await prepared(postgres_url)
    async with running_node(postgres_url, master_keys=MASTER) as node:
        hand = Encrypted(node, project_id)
        queue = await hand.queue()
        batch = SubmitBatch()
        batch.add("send", b'"open"', 0, node.clock.now_us() + 3_600_000_000)
        job_id = await node.doors.submit(queue, batch)
        await node.doors.cancel(job_id, project_id)
        await encrypt(node, project_id)
        found = await node.doors.job(job_id)
        if found is None:
            await node.projector.flush()
            found = await JobQueries(node.pool).get(project_id, job_id)
        assert found is not None
        assert found[0]["payload"] == b'"open"'
        again = await node.doors.requeue(found[0])
        assert looks_sealed(again["payload"])
        _, outlet = await hand.worker(queue)
        await arrives(outlet, lambda: outlet.payloads() == [b'"open"'])


async def test_repeated_submits_are_known_across_the_switch_and_rotation(postgres_url: str) -> None:
    project_id = await prepared(postgres_url)
    request = KeyedRequest("k1", b"1" * 32)
    async with running_node(postgres_url, master_keys=MASTER) as node:
        hand = Encrypted(node, project_id)
        queue = await hand.queue()
        before = await hand.send(queue, b"1", request)
        organization_id = await encrypt(node, project_id)
        assert await hand.send(queue, b"1", request) == before
        sealed = KeyedRequest("k2", b"2" * 32)
        first = await hand.send(queue, b"2", sealed)
        await node.project_keys.add(organization_id, project_id, node.masters.new_key, OPERATOR)
        await node.keyring.changed(project_id)
        assert await hand.send(queue, b"2", sealed) == first
        with pytest.raises(KeyConflict):
            await hand.send(queue, b"3", KeyedRequest("k2", b"3" * 32))
        await node.projector.flush()
        hashes = await node.pool.fetch("SELECT key, body_hash FROM idempotency_keys")
        assert {row["key"]: row["body_hash"] == row["key"][1:].encode() * 32 for row in hashes} == {
            "k1": True,
            "k2": False,
        }
    async with running_node(postgres_url, master_keys=MASTER) as node:
        hand = Encrypted(node, project_id)
        assert await hand.send(queue, b"2", sealed) == first
        await encrypt(node, project_id, on=False)
        assert await hand.send(queue, b"2", sealed) == first


async def test_switched_off_new_texts_pass_and_old_ones_open(postgres_url: str) -> None:
    project_id = await prepared(postgres_url)
    async with running_node(postgres_url, master_keys=MASTER) as node:
        hand = Encrypted(node, project_id)
        queue = await hand.queue()
        organization_id = await encrypt(node, project_id)
        await hand.send(queue, b'"sealed"')
        await encrypt(node, project_id, on=False)
        plain = await hand.send(queue, b'"plain"')
        found = await node.doors.job(plain)
        assert found is not None
        assert found[0]["payload"] == b'"plain"'
        _, outlet = await hand.worker(queue)
        await arrives(outlet, lambda: outlet.payloads() == [b'"sealed"', b'"plain"'])
        state = await node.project_keys.get(organization_id, project_id)
        assert (state.encrypted, len(state.keys)) == (False, 1)
        state = await node.project_keys.switch(
            organization_id, project_id, True, node.masters.new_key, OPERATOR
        )
        assert len(state.keys) == 1


async def test_a_key_for_a_project_that_was_never_encrypted_is_refused(postgres_url: str) -> None:
    project_id = await prepared(postgres_url)
    async with running_node(postgres_url, master_keys=MASTER) as node:
        organization_id = await node.project_keys.organization_of(project_id)
        with pytest.raises(Conflict, match="never been encrypted"):
            await node.project_keys.add(organization_id, project_id, node.masters.new_key, OPERATOR)
        assert not node.core.vault.active


async def prepared_connection(url: str) -> Connection:
    return await connect(url, application_name="test")
