"""The commands that an operator uses: serve, dev, migrate, worker, check.

What a command needs is imported by it: a worker and `--help` do not wait for the whole server.
"""

import asyncio
import os
import secrets
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from taskforge_server.api.cli.interrupts import STATUS, Interrupted, interruptible
from taskforge_server.engine.config import Config, about, load
from taskforge_server.engine.errors import ConfigError, TaskForgeError
from taskforge_server.engine.model.tenant import API_KEY_RANDOM_BYTES, api_key_text
from taskforge_server.engine.observe import logs
from taskforge_server.engine.vault.masters import new_master_key
from taskforge_server.ext.ids import uuid_bytes, uuid_text

if TYPE_CHECKING:
    from taskforge_server.engine.store.pool import Pool

USAGE = 2
FAILED = 1

File = Annotated[
    Path | None, typer.Option("--config", help="A TOML file with options.", metavar="FILE")
]
PostgresUrl = Annotated[str | None, typer.Option(help=about("postgres_url"), metavar="URL")]
RedisUrl = Annotated[str | None, typer.Option(help=about("redis_url"), metavar="URL")]
Host = Annotated[str | None, typer.Option(help=about("host"))]
Port = Annotated[str | None, typer.Option(help=about("port"), metavar="PORT")]
TlsCert = Annotated[str | None, typer.Option(help=about("tls_cert"), metavar="FILE")]
TlsKey = Annotated[str | None, typer.Option(help=about("tls_key"), metavar="FILE")]
TrustedProxies = Annotated[
    list[str] | None,
    typer.Option("--trusted-proxy", help=about("trusted_proxies"), metavar="CIDR"),
]
MasterKeyFile = Annotated[str | None, typer.Option(help=about("master_key_file"), metavar="FILE")]
DataDir = Annotated[str | None, typer.Option(help=about("data_dir"), metavar="DIRECTORY")]
LogLevel = Annotated[str | None, typer.Option(help=about("log_level"), metavar="LEVEL")]
More = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="OPTION=VALUE",
        help="Any other option of docs/reference/configuration.md; repeatable.",
    ),
]


@contextmanager
def reported() -> Any:
    """Errors that a person can mend are told in one line; the exit status says who is at fault."""
    try:
        yield
    except ConfigError as error:
        typer.echo(f"taskforge: {error}", err=True)
        raise typer.Exit(USAGE) from None
    except (TaskForgeError, OSError) as error:
        typer.echo(f"taskforge: {error}", err=True)
        raise typer.Exit(FAILED) from None
    except Interrupted:
        raise typer.Exit(STATUS) from None


def configuration(
    file: Path | None, more: list[str] | None, *, as_json: bool = True, **flags: Any
) -> Config:
    """The options of a command; ConfigError for one that is wrong."""
    sets: dict[str, str] = {}
    for pair in more or []:
        name, equals, value = pair.partition("=")
        if not equals:
            raise ConfigError(pair, "flag --set", "OPTION=VALUE is accepted")
        sets[name.replace("-", "_")] = value
    config = load(flags, file=file, sets=sets)
    logs.configure(config.log_level, as_json=as_json)
    return config


@asynccontextmanager
async def database(postgres_url: str, purpose: str) -> "AsyncIterator[Pool]":
    """The database, for a command that works on it without a node."""
    from taskforge_server.engine.store.migrate import check_prepared
    from taskforge_server.engine.store.pool import open_pool

    name = f"taskforge {purpose}"
    pool = await open_pool(postgres_url, application_name=name, connections_max=1)
    try:
        await check_prepared(pool)
        yield pool
    finally:
        await pool.close()


def an_id(text: str) -> str:
    """The text of an id, for the callback of an option."""
    try:
        uuid_bytes(text)
    except ValueError:
        raise typer.BadParameter("this is no id") from None
    return text


def serve_command(
    file: File = None,
    postgres_url: PostgresUrl = None,
    redis_url: RedisUrl = None,
    host: Host = None,
    port: Port = None,
    tls_cert: TlsCert = None,
    tls_key: TlsKey = None,
    trusted_proxy: TrustedProxies = None,
    master_key_file: MasterKeyFile = None,
    log_level: LogLevel = None,
    more: More = None,
) -> None:
    """Run a node: the HTTP API, the worker streams and the engine.

    Needs a PostgreSQL database that `taskforge migrate` has prepared, a Redis or Valkey server, and
    a master key, which `taskforge keys new` makes.
    Options come from flags, then environment variables TASKFORGE_…, then the TOML file. SIGTERM
    drains: new jobs are refused, running ones may finish.
    """
    import uvloop

    from taskforge_server.api.cli.serving import serve

    with reported():
        config = configuration(
            file,
            more,
            postgres_url=postgres_url,
            redis_url=redis_url,
            host=host,
            port=port,
            tls_cert=tls_cert,
            tls_key=tls_key,
            trusted_proxies=trusted_proxy or None,
            master_key_file=master_key_file,
            log_level=log_level,
        )
        uvloop.run(serve(config))


def dev(
    data_dir: DataDir = None,
    host: Host = None,
    port: Port = None,
    file: File = None,
    log_level: LogLevel = None,
    more: More = None,
) -> None:
    """Run everything on this machine: PostgreSQL, Valkey and a node, for development.

    The servers come from their Python packages and keep their files in the data directory, with
    the API key that is printed. TASKFORGE_API_KEY is used instead where it is set.
    """
    import uvloop

    from taskforge_server.api.cli.embedded import EmbeddedServers
    from taskforge_server.api.cli.serving import prepare, serve

    with reported(), interruptible() as stack:
        config = configuration(
            file,
            more,
            as_json=False,
            data_dir=data_dir,
            host=host,
            port=port,
            log_level=log_level or "warning",
        )
        servers = stack.enter_context(EmbeddedServers(config.data_dir))
        config = configuration(
            file,
            more,
            as_json=False,
            data_dir=data_dir,
            host=host,
            port=port,
            log_level=log_level or "warning",
            postgres_url=servers.postgres_url,
            redis_url=servers.redis_url,
            master_key_file=master_key_file(config),
            api_key=config.api_key or api_key_of(config.data_dir),
        )
        asyncio.run(prepare(config))
        scheme = "http" if config.tls_cert is None else "https"

        def tell(port: int) -> None:
            url = f"{scheme}://{config.host}:{port}"
            _tell_dev(url, str(config.api_key), servers.postgres_url)

        uvloop.run(serve(config, tell))


def master_key_file(config: Config) -> Path | None:
    """The file with the master key of the data directory, made now if there is none; None where the
    configuration gives keys of its own."""
    if config.master_keys is not None or config.master_key_file is not None:
        return None
    return master_key_of(config.data_dir)


def master_key_of(data_dir: Path) -> Path:
    """The file with the master key of a data directory, made now if there is none."""
    path = data_dir / "master.keys"
    if not path.exists():
        write_private(path, new_master_key("dev"))
    return path


def api_key_of(data_dir: Path) -> str:
    """The API key of a data directory, made now if there is none; the file is its owner's alone."""
    path = data_dir / "api_key"
    if not path.exists():
        write_private(path, api_key_text(secrets.token_bytes(API_KEY_RANDOM_BYTES)))
    return path.read_text().strip()


def write_private(path: Path, line: str) -> None:
    """A new file for its owner alone; FileExistsError where there is one."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(line + "\n")


def _tell_dev(url: str, api_key: str, postgres_url: str) -> None:
    typer.echo(
        f"TaskForge serves at {url}. Ctrl-C ends it.\n\n"
        f"  export TASKFORGE_URL={url}\n"
        f"  export TASKFORGE_API_KEY={api_key}\n\n"
        f'  curl -H "Authorization: Bearer $TASKFORGE_API_KEY" {url}/v1/queues\n'
        "  taskforge queues list\n"
        f"  taskforge organizations list --postgres-url '{postgres_url}'\n"
    )
    sys.stdout.flush()


def migrate_command(
    file: File = None,
    postgres_url: PostgresUrl = None,
    master_key_file: MasterKeyFile = None,
    more: More = None,
) -> None:
    """Prepare the database: bring the schema up to date, make the first project and API key.

    Runs forward from an empty database, and does no harm when it runs again. A new API key is
    printed once; only its hash is stored.
    """
    from taskforge_server.api.cli.serving import prepare

    with reported():
        config = configuration(
            file,
            more,
            postgres_url=postgres_url,
            master_key_file=master_key_file,
            log_level="warning",
        )
        made = asyncio.run(prepare(config))
        typer.echo("The schema is up to date.")
        if made.new_api_key is not None:
            typer.echo(f"API key (shown this once): {made.new_api_key}")


def check(file: File = None, postgres_url: PostgresUrl = None, more: More = None) -> None:
    """Verify a database: compare the log with the tables, and say what differs.

    No node may run on it meanwhile. Exit status 0: all is well; 1: there are differences. With
    `log_retention_all` the whole history is compared, otherwise what the log still holds.
    """
    from taskforge_server.engine.node.checking import check_database

    with reported():
        config = configuration(file, more, postgres_url=postgres_url, log_level="warning")
        found = asyncio.run(check_database(config))
        for difference in found:
            row = "" if difference.id is None else f" {uuid_text(difference.id)}"
            expected, seen = difference.expected or "nothing", difference.found or "nothing"
            where = f"shard {difference.shard}{row}: {difference.kind}"
            typer.echo(f"{where}: expected {expected}, found {seen}")
        if found:
            typer.echo(f"{len(found)} differences", err=True)
            raise typer.Exit(FAILED)
        typer.echo("The log and the tables agree.")


def worker(context: typer.Context) -> None:
    """Run the jobs of the tasks in a Python MODULE (the SDK's `taskforge-worker`).

    `taskforge worker MODULE --help` shows its options.
    """
    try:
        from taskforge.worker import main as run_worker
    except ImportError:
        typer.echo("taskforge: the Python SDK is missing: pip install taskforge", err=True)
        raise typer.Exit(USAGE) from None
    raise typer.Exit(run_worker(context.args or ["--help"]))


def add_to(app: typer.Typer) -> None:
    """Register the commands."""
    app.command("serve")(serve_command)
    app.command("dev")(dev)
    app.command("migrate")(migrate_command)
    app.command("check")(check)
    app.command(
        "worker",
        context_settings={
            "allow_extra_args": True,
            "ignore_unknown_options": True,
            "help_option_names": [],
        },
    )(worker)
