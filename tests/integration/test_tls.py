"""TLS: to the HTTP API, to PostgreSQL and to Redis, with an authority made for the test."""

import asyncio
import signal
import ssl
import urllib.parse
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import asyncpg
import pytest
import redis.exceptions

from taskforge import AsyncClient, Client, ConnectionFailed, task
from taskforge.worker import Worker
from taskforge_server.api.cli.embedded import EmbeddedServers
from taskforge_server.api.cli.serving import api_of, reload_certificate
from taskforge_server.engine import config as configuration
from taskforge_server.engine.cluster.redis import client as redis_client
from taskforge_server.engine.config import Config
from taskforge_server.engine.errors import ConfigError
from taskforge_server.engine.model.tenant import api_key_text
from taskforge_server.engine.runtime.tls import ServerTls
from taskforge_server.engine.store.bootstrap import bootstrap
from taskforge_server.engine.store.pool import connect, open_pool
from tests.support.certificates import Authority
from tests.support.commands import TASKFORGE, Command
from tests.support.masterkeys import MASTER_KEYS
from tests.support.real_node import SHARDS, running_node
from tests.support.tlsfront import tls_front

KEY = api_key_text(bytes(32))
HERE = "127.0.0.1"


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """An authority that nobody trusts."""
    return Authority(tmp_path_factory.mktemp("tls"), "stranger")


@task(queue="default")
async def double(number: int) -> int:
    return number * 2


# The HTTP API


@dataclass
class Stack:
    tls: ServerTls
    files: tuple[Path, Path]
    port: int

    @property
    def url(self) -> str:
        return f"https://{HERE}:{self.port}"

    async def shown(self, context: ssl.SSLContext) -> tuple[int, str | None]:
        """The number of the certificate that a new connection sees, and the version of TLS."""
        _, writer = await asyncio.open_connection(HERE, self.port, ssl=context)
        found = writer.get_extra_info("ssl_object")
        writer.transport.abort()
        return int(found.getpeercert()["serialNumber"], 16), found.version()


@pytest.fixture
async def stack(postgres_url: str, authority: Authority) -> AsyncIterator[Stack]:
    connection = await connect(postgres_url, application_name="test")
    await bootstrap(connection, SHARDS, KEY)
    await connection.close()
    files = authority.issue("api", HERE, "localhost")
    async with running_node(postgres_url) as node:
        tls = ServerTls(*files)
        server = api_of(node)
        port = await server.start(HERE, 0, tls=tls.context)
        yield Stack(tls, files, port)
        await server.stop(1.0)


async def test_clients_and_workers_over_tls(
    stack: Stack, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with AsyncClient(stack.url, KEY, ca_file=str(authority.path)) as client:
        await client.queues.create("default")
        monkeypatch.setenv("TASKFORGE_CA_FILE", str(authority.path))
        worker = Worker(stack.url, KEY, [double])
        serving = asyncio.create_task(worker.serve())
        handles = [await client.submit(double, number=number) for number in range(5)]
        assert [await handle.wait(20) for handle in handles] == [0, 2, 4, 6, 8]

        def blocking() -> int:
            with Client(stack.url, KEY) as other:
                return other.submit(double, number=21).wait(20)

        assert await asyncio.to_thread(blocking) == 42
        worker.stop()
        async with asyncio.timeout(20):
            await serving


async def test_who_does_not_trust_the_authority_sends_nothing(
    stack: Stack, stranger: Authority
) -> None:
    for ca_file in (None, str(stranger.path)):
        async with AsyncClient(stack.url, KEY, ca_file=ca_file, retries=0) as client:
            with pytest.raises(ConnectionFailed, match="certificate verify failed"):
                await client.queues.create("default")


async def test_the_name_of_the_host_is_checked(stack: Stack, authority: Authority) -> None:
    trusting = ssl.create_default_context(cafile=authority.path)
    with pytest.raises(ssl.SSLCertVerificationError, match=r"other\.example"):
        await asyncio.open_connection(
            HERE, stack.port, ssl=trusting, server_hostname="other.example"
        )


async def test_nothing_older_than_tls_1_3(stack: Stack, authority: Authority) -> None:
    trusting = ssl.create_default_context(cafile=authority.path)
    assert (await stack.shown(trusting))[1] == "TLSv1.3"
    trusting.maximum_version = ssl.TLSVersion.TLSv1_2
    with pytest.raises((ssl.SSLError, ConnectionResetError)):
        await stack.shown(trusting)


async def test_plain_http_gets_no_answer(stack: Stack) -> None:
    reader, writer = await asyncio.open_connection(HERE, stack.port)
    writer.write(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
    assert b"HTTP/" not in await reader.read()
    writer.close()


async def test_a_renewed_certificate(stack: Stack, authority: Authority) -> None:
    trusting = ssl.create_default_context(cafile=authority.path)
    before, _ = await stack.shown(trusting)
    connector = aiohttp.TCPConnector(ssl=trusting)
    async with aiohttp.ClientSession(connector=connector) as session:
        (await session.get(f"{stack.url}/healthz")).raise_for_status()
        authority.issue("api", HERE)
        reload_certificate(stack.tls)
        after, _ = await stack.shown(trusting)
        assert after != before
        (await session.get(f"{stack.url}/healthz")).raise_for_status()


@pytest.mark.parametrize("broken", ["key of another", "no certificate", "gone"])
async def test_a_bad_renewal_changes_nothing(
    stack: Stack, authority: Authority, caplog: pytest.LogCaptureFixture, broken: str
) -> None:
    trusting = ssl.create_default_context(cafile=authority.path)
    before = await stack.shown(trusting)
    cert, key = stack.files
    if broken == "key of another":
        _, other = authority.issue("other", HERE)
        key.write_bytes(other.read_bytes())
    elif broken == "no certificate":
        cert.write_text("nothing")
    else:
        cert.unlink()
    with caplog.at_level("INFO"):
        reload_certificate(stack.tls)
    assert "was not reloaded" in caplog.text
    assert await stack.shown(trusting) == before


async def test_the_command_serves_and_reloads_on_sighup(
    servers: EmbeddedServers, postgres_url: str, authority: Authority
) -> None:
    connection = await connect(postgres_url, application_name="test")
    await bootstrap(connection, SHARDS, KEY)
    await connection.close()
    cert, key = authority.issue("served", HERE)
    trusting = ssl.create_default_context(cafile=authority.path)
    command = Command(
        *TASKFORGE,
        "serve",
        *("--port", "0", "--set", f"shards={SHARDS}", "--set", f"master_keys={MASTER_KEYS}"),
        *("--tls-cert", str(cert), "--tls-key", str(key)),
        *("--postgres-url", postgres_url, "--redis-url", servers.redis_url),
    )
    with command:
        found = await asyncio.to_thread(command.until, r"listening on 127.0.0.1 port (\d+)")
        stack = Stack(ServerTls(cert, key), (cert, key), int(found[1]))
        before, _ = await stack.shown(trusting)
        authority.issue("served", HERE)
        command._process.send_signal(signal.SIGHUP)
        await asyncio.to_thread(command.until, "the certificate was reloaded")
        after, _ = await stack.shown(trusting)
        assert after != before
        async with AsyncClient(stack.url, KEY, ca_file=str(authority.path)) as client:
            await client.queues.create("default")
            handles = [await client.submit(double, number=number) for number in range(10)]
            worker = Worker(stack.url, KEY, [double], ca_file=str(authority.path))
            serving = asyncio.create_task(worker.serve())
            assert [await handle.wait(20) for handle in handles] == list(range(0, 20, 2))
            worker.stop()
            await serving


# The configuration


def test_a_certificate_that_cannot_be_used_stops_the_start(
    tmp_path: Path, authority: Authority
) -> None:
    cert, key = authority.issue("one", HERE)
    _, other = authority.issue("two", HERE)
    with pytest.raises(ConfigError, match="KEY_VALUES_MISMATCH"):
        ServerTls(cert, other)
    with pytest.raises(ConfigError, match="tls_cert"):
        ServerTls(tmp_path / "none", key)


@pytest.mark.parametrize(
    ("flags", "option", "problem"),
    [
        ({"tls_cert": "x"}, "tls_cert", "belong together"),
        ({"tls_key": "x"}, "tls_key", "belong together"),
        ({"postgres_tls_ca": "/nowhere/ca.pem"}, "postgres_tls_ca", "no file"),
        (
            {"postgres_tls_ca": __file__, "postgres_url": "postgresql:///db?host=/run"},
            "postgres_tls_ca",
            "a socket has no TLS",
        ),
        (
            {"redis_tls_ca": __file__, "redis_url": "redis://localhost"},
            "redis_tls_ca",
            "rediss://",
        ),
    ],
)
def test_options_that_do_not_fit(flags: dict[str, str], option: str, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem) as caught:
        configuration.load(flags, {})
    assert caught.value.option == option


def test_verification_wins_over_what_the_url_says(authority: Authority) -> None:
    ca = str(authority.path)
    config = configuration.load(
        {
            "postgres_url": "postgresql://u:p%40@db:5/x?sslmode=disable&application_name=a",
            "postgres_tls_ca": ca,
            "redis_url": "rediss://:p@cache:6/1?ssl_cert_reqs=none&ssl_check_hostname=false",
            "redis_tls_ca": ca,
        },
        {},
    )
    postgres, redis_parts = (
        urllib.parse.urlsplit(url) for url in (config.postgres_url, config.redis_url)
    )
    assert (postgres.netloc, postgres.path) == ("u:p%40@db:5", "/x")
    assert dict(urllib.parse.parse_qsl(postgres.query)) == {
        "sslmode": "verify-full",
        "sslrootcert": ca,
        "application_name": "a",
    }
    assert (redis_parts.netloc, redis_parts.path) == (":p@cache:6", "/1")
    assert dict(urllib.parse.parse_qsl(redis_parts.query)) == {
        "ssl_cert_reqs": "required",
        "ssl_check_hostname": "true",
        "ssl_ca_certs": ca,
    }


# PostgreSQL


def postgres_config(port: int, database: str, authority: Authority) -> Config:
    return configuration.load(
        {
            "postgres_url": f"postgresql://postgres@{HERE}:{port}/{database}",
            "postgres_tls_ca": str(authority.path),
        },
        {},
    )


def socket_of(url: str) -> tuple[Path, str]:
    """The Unix socket and the database of a URL."""
    parts = urllib.parse.urlsplit(url)
    folder = dict(urllib.parse.parse_qsl(parts.query))["host"]
    return Path(folder) / ".s.PGSQL.5432", parts.path[1:]


async def test_postgres_over_tls(postgres_url: str, authority: Authority) -> None:
    target, database = socket_of(postgres_url)
    async with tls_front(target, *authority.issue("db", HERE), postgres=True) as port:
        config = postgres_config(port, database, authority)
        connection = await connect(config.postgres_url, application_name="test")
        transport = connection._transport  # type: ignore[attr-defined]
        assert transport.get_extra_info("ssl_object").version() == "TLSv1.3"
        assert await connection.fetchval("SELECT current_database()") == database
        await connection.close()
        pool = await open_pool(config.postgres_url, application_name="test", connections_max=1)
        assert await pool.fetchval("SELECT 1") == 1
        await pool.close()


async def test_postgres_must_prove_who_it_is(
    postgres_url: str, authority: Authority, stranger: Authority
) -> None:
    target, database = socket_of(postgres_url)
    for files in (stranger.issue("db", HERE), authority.issue("db", "db.example")):
        async with tls_front(target, *files, postgres=True) as port:
            config = postgres_config(port, database, authority)
            with pytest.raises(ssl.SSLCertVerificationError):
                await connect(config.postgres_url, application_name="test")
    files = authority.issue("db", HERE)
    async with tls_front(target, *files, postgres=True, refuses=True) as port:
        config = postgres_config(port, database, authority)
        with pytest.raises((ConnectionError, asyncpg.PostgresError), match="SSL"):
            await connect(config.postgres_url, application_name="test")


# Redis


def redis_config(port: int, authority: Authority) -> Config:
    return configuration.load(
        {"redis_url": f"rediss://{HERE}:{port}/0", "redis_tls_ca": str(authority.path)}, {}
    )


async def test_redis_over_tls(servers: EmbeddedServers, authority: Authority) -> None:
    target = servers.valkey.socket_path
    async with tls_front(target, *authority.issue("cache", HERE)) as port:
        client = redis_client(redis_config(port, authority).redis_url)
        assert await client.ping()
        await client.aclose()


async def test_redis_must_prove_who_it_is(
    servers: EmbeddedServers, authority: Authority, stranger: Authority
) -> None:
    target = servers.valkey.socket_path
    for files in (stranger.issue("cache", HERE), authority.issue("cache", "cache.example")):
        async with tls_front(target, *files) as port:
            client = redis_client(redis_config(port, authority).redis_url)
            with pytest.raises(redis.exceptions.ConnectionError, match="certificate verify failed"):
                await client.ping()
            await client.aclose()
