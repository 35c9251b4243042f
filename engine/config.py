"""The configuration of a node: raw values, validated once, then frozen.

Sources, the later ones win: the defaults below, a TOML file, environment variables
`TASKFORGE_<OPTION>`, and flags. Each field of `Config` is one option and carries its own rule; a
value that breaks it raises `ConfigError`, which names the option, where the value came from and
what is accepted. Options that nobody knows are refused too: a typo must not run with a default.
"""

import os
import platform
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import Field, dataclass, field, fields, replace
from difflib import get_close_matches
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from typing import Any, TypeAlias
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from taskforge_server.engine import limits
from taskforge_server.engine.errors import ConfigError

ENVIRONMENT_PREFIX = "TASKFORGE_"
# Variables that mean something to the commands, to the SDK or to tests, and are no options.
FOREIGN_VARIABLES = frozenset(
    {"config", "url", "ca_file", "faultpoint", "test_build", "test_disable"}
)
SECRETS = frozenset({"postgres_url", "redis_url", "api_key", "master_keys"})

_BYTE_UNITS = {
    "kib": limits.KIB,
    "mib": limits.MIB,
    "gib": limits.GIB,
    "kb": 1000,
    "mb": 1000**2,
    "gb": 1000**3,
    "b": 1,
}
_TRUE = {"true", "yes", "on", "1"}
_FALSE = {"false", "no", "off", "0"}


@dataclass(frozen=True, slots=True)
class Rule:
    """How one option is read: `read` raises ValueError for all that `accepted` does not name."""

    read: Callable[[object], object]
    accepted: str


def integer(low: int, high: int) -> Rule:
    """A whole number in [low, high]."""

    def read(raw: object) -> int:
        if isinstance(raw, bool) or not isinstance(raw, int | str):
            raise ValueError
        number = int(raw)
        if not low <= number <= high:
            raise ValueError
        return number

    return Rule(read, f"a whole number from {low} to {high}")


def seconds(low: float, high: float) -> Rule:
    """A duration in seconds in [low, high]."""

    def read(raw: object) -> float:
        if isinstance(raw, bool) or not isinstance(raw, int | float | str):
            raise ValueError
        number = float(raw)
        if not low <= number <= high:  # refuses NaN too
            raise ValueError
        return number

    return Rule(read, f"seconds from {low:g} to {high:g}")


def byte_size(low: int) -> Rule:
    """A number of bytes, with or without a unit."""

    def read(raw: object) -> int:
        if isinstance(raw, bool) or not isinstance(raw, int | str):
            raise ValueError
        text = str(raw).strip().lower()
        unit = next((name for name in _BYTE_UNITS if text.endswith(name)), "")
        size = int(float(text.removesuffix(unit)) * _BYTE_UNITS.get(unit, 1))
        if size < low:
            raise ValueError
        return size

    return Rule(read, f"a size such as 512MiB or 2GiB, at least {low} bytes")


def flag() -> Rule:
    """A switch."""

    def read(raw: object) -> bool:
        if isinstance(raw, bool):
            return raw
        text = str(raw).strip().lower()
        if text not in _TRUE | _FALSE:
            raise ValueError
        return text in _TRUE

    return Rule(read, "true or false")


def text(chars_max: int = limits.NAME_CHARS_MAX) -> Rule:
    """Some text that is not empty."""

    def read(raw: object) -> str:
        if not isinstance(raw, str) or not 0 < len(raw.strip()) <= chars_max:
            raise ValueError
        return raw.strip()

    return Rule(read, f"text of 1 to {chars_max} characters")


def url(*schemes: str) -> Rule:
    """A URL with one of these schemes."""

    def read(raw: object) -> str:
        if not isinstance(raw, str) or urlsplit(raw).scheme not in schemes:
            raise ValueError
        return raw

    return Rule(read, "a URL that starts with " + " or ".join(f"{scheme}://" for scheme in schemes))


def choice(*names: str) -> Rule:
    """One of some words."""

    def read(raw: object) -> str:
        word = str(raw).strip().lower()
        if word not in names:
            raise ValueError
        return word

    return Rule(read, "one of " + ", ".join(names))


def directory() -> Rule:
    """The path of a directory, which need not exist yet."""

    def read(raw: object) -> Path:
        if not isinstance(raw, str | Path) or not str(raw):
            raise ValueError
        path = Path(raw).expanduser()
        if path.exists() and not path.is_dir():
            raise ValueError
        return path

    return Rule(read, "the path of a directory")


def path() -> Rule:
    """The path of a file; whether it is there is found when it is read."""

    def read(raw: object) -> Path:
        if not isinstance(raw, str | Path) or not str(raw):
            raise ValueError
        return Path(raw).expanduser()

    return Rule(read, "the path of a file")


Network: TypeAlias = IPv4Network | IPv6Network


def networks() -> Rule:
    """Networks of addresses, each once; an address alone is one, too."""

    def read(raw: object) -> tuple[Network, ...]:
        parts = raw.split(",") if isinstance(raw, str) else raw
        if not isinstance(parts, list | tuple):
            raise ValueError
        return tuple(dict.fromkeys(ip_network(str(part).strip()) for part in parts))

    return Rule(read, "networks such as 10.0.0.0/8 or fd00::/8, by commas")


def option(default: Any, rule: Rule, about: str) -> Any:
    """A field of `Config` with its rule and what a newcomer reads about it."""
    return field(default=default, metadata={"rule": rule, "about": about})


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """All options of a node; an instance is valid."""

    postgres_url: str = option(
        "postgresql://localhost:5432/taskforge",
        url("postgresql", "postgres"),
        "the PostgreSQL database that holds everything",
    )
    redis_url: str = option(
        "redis://localhost:6379/0",
        url("redis", "rediss", "unix"),
        "the Redis or Valkey server through which nodes talk",
    )
    host: str = option("127.0.0.1", text(), "the address that the HTTP API listens on")
    port: int = option(8040, integer(0, 65_535), "its port; 0 takes any free one")
    data_dir: Path = option(  # noqa: RUF009 - `option` is `field` with metadata
        Path("var"), directory(), "where the embedded servers keep their files"
    )
    node_name: str = option("", text(), "the name of this node; the machine's if not given")
    shards: int = option(
        limits.SHARDS_DEFAULT,
        integer(1, limits.SHARDS_MAX),
        "how many shards new queues are spread over; fixed once a database has queues",
    )
    lease_ttl_s: float = option(
        30.0,
        seconds(limits.LEASE_TTL_S_MIN, limits.LEASE_TTL_S_MAX),
        "a worker that is silent for this long loses its jobs to others",
    )
    heartbeat_s: float = option(
        0.0,
        seconds(0.1, limits.LEASE_TTL_S_MAX),
        "how often a worker says that it lives; a third of lease_ttl_s if not given",
    )
    drain_timeout_s: float = option(
        30.0, seconds(0.0, 3_600.0), "how long a stopping node waits for running jobs"
    )
    tick_s: float = option(
        0.25, seconds(0.01, 10.0), "the projector writes finished jobs to the tables this often"
    )
    settle_s: float = option(
        2.0, seconds(0.0, 600.0), "it writes jobs that wait or run once they are this old"
    )
    memory_bytes_max: int = option(
        limits.MEMORY_BYTES_DEFAULT,
        byte_size(limits.MEMORY_BYTES_MIN),
        "submits are refused while the live jobs of this node take more memory",
    )
    resident_jobs_max: int = option(
        limits.RESIDENT_JOBS_DEFAULT,
        integer(limits.RESIDENT_JOBS_MIN, limits.RESIDENT_JOBS_MAX),
        "jobs of one type in one queue that wait in memory; those behind them wait in the tables",
    )
    postgres_connections: int = option(
        8,
        integer(limits.POOL_CONNECTIONS_MIN, limits.POOL_CONNECTIONS_MAX),
        "connections of the pool for reads and configuration",
    )
    log_retention_all: bool = option(
        False, flag(), "keep every row of the log, so that `taskforge check` can compare all of it"
    )
    unsafe: bool = option(
        False, flag(), "run although the database may forget commits after a crash"
    )
    api_key: str | None = option(
        None, text(limits.API_KEY_BYTES_MAX), "the API key that the bootstrap creates"
    )
    signup_open: bool = option(
        True, flag(), "anybody may make an organisation with `POST /v1/signup`"
    )
    master_keys: str | None = option(
        None,
        text(limits.MASTER_KEYS_BYTES_MAX),
        "what stored secrets and the keys of encrypted projects are encrypted with, `ID:BASE64` of "
        "32 bytes each, by commas; the first one encrypts, the others still open",
    )
    master_key_file: Path | None = option(  # noqa: RUF009 - as above
        None, path(), "a file with the master keys instead, one a line, the encrypting one first"
    )
    trusted_proxies: tuple[Network, ...] = option(
        (),
        networks(),
        "the proxies whose X-Forwarded-For is believed, for the addresses in limits and in the "
        "audit log",
    )
    tls_cert: Path | None = option(  # noqa: RUF009 - as above
        None, path(), "the certificate of the HTTP API with its chain, PEM; makes it HTTPS"
    )
    tls_key: Path | None = option(  # noqa: RUF009 - as above
        None, path(), "the private key of tls_cert, PEM; SIGHUP reads both anew"
    )
    postgres_tls_ca: Path | None = option(  # noqa: RUF009 - as above
        None,
        path(),
        "connect to PostgreSQL with TLS alone, and only if its certificate is of this authority, "
        "PEM, and has the host's name",
    )
    redis_tls_ca: Path | None = option(  # noqa: RUF009 - as above
        None, path(), "the same for Redis; its URL then begins with rediss://"
    )
    log_level: str = option(
        "info", choice("debug", "info", "warning", "error"), "the least level that is logged"
    )

    def __post_init__(self) -> None:
        if not self.node_name:
            object.__setattr__(self, "node_name", platform.node() or "node")
        if not self.heartbeat_s:
            object.__setattr__(self, "heartbeat_s", self.lease_ttl_s / 3)

    def __repr__(self) -> str:
        shown = (
            f"{spec.name}={'***' if spec.name in SECRETS else getattr(self, spec.name)!r}"
            for spec in fields(self)
        )
        return f"Config({', '.join(shown)})"


def options() -> dict[str, Field[Any]]:
    """Every option by name, for `--help` and the reference."""
    return {spec.name: spec for spec in fields(Config)}


def about(name: str) -> str:
    """What the option does and what it accepts, in one line."""
    meta = options()[name].metadata
    return f"{meta['about']} ({meta['rule'].accepted})"


def load(
    flags: Mapping[str, object] | None = None,
    environment: Mapping[str, str] | None = None,
    file: Path | None = None,
    sets: Mapping[str, object] | None = None,
) -> Config:
    """Gather, validate and freeze. Flags that are None count as not given; `sets` are those of
    `--set`, which win.

    Without `file`, the variable TASKFORGE_CONFIG may name one.
    """
    environment = os.environ if environment is None else environment
    if file is None and (named := environment.get(f"{ENVIRONMENT_PREFIX}CONFIG")):
        file = Path(named)
    given: dict[str, tuple[object, str]] = {}
    if file is not None:
        given |= _from_file(file)
    given |= _from_environment(environment)
    for name, value in (flags or {}).items():
        if value is not None:
            given[name] = (value, f"flag --{name.replace('_', '-')}")
    for name, value in (sets or {}).items():
        given[name] = (value, f"flag --set {name}")
    values = {name: _read(name, raw, source) for name, (raw, source) in given.items()}
    config = Config(**values)
    sources = {name: source for name, (_, source) in given.items()}
    _check_relations(config, sources)
    return _verified(config, sources)


def _read(name: str, raw: object, source: str) -> Any:
    known = options()
    if name not in known:
        near = get_close_matches(name, known, n=1)
        hint = f"did you mean {near[0]}?" if near else "accepted are " + ", ".join(sorted(known))
        raise ConfigError(name, source, f"unknown; {hint}")
    rule: Rule = known[name].metadata["rule"]
    try:
        return rule.read(raw)
    except (ValueError, OverflowError):
        shown = "the value" if name in SECRETS else repr(raw)
        raise ConfigError(name, source, f"{shown} is not {rule.accepted}") from None


def _from_file(path: Path) -> dict[str, tuple[object, str]]:
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError("config", str(path), f"cannot read it: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError("config", str(path), f"not a TOML file: {error}") from error
    return {name: (value, f"file {path}") for name, value in content.items()}


def _from_environment(environment: Mapping[str, str]) -> dict[str, tuple[object, str]]:
    found: dict[str, tuple[object, str]] = {}
    for variable, value in environment.items():
        name = variable.removeprefix(ENVIRONMENT_PREFIX).lower()
        if variable.startswith(ENVIRONMENT_PREFIX) and name not in FOREIGN_VARIABLES:
            found[name] = (value, f"environment variable {variable}")
    return found


def _check_relations(config: Config, sources: Mapping[str, str]) -> None:
    """Rules that need two options."""
    if (config.tls_cert is None) != (config.tls_key is None):
        name = "tls_cert" if config.tls_key is None else "tls_key"
        raise ConfigError(name, sources[name], "tls_cert and tls_key belong together")
    if config.master_keys is not None and config.master_key_file is not None:
        raise ConfigError(
            "master_key_file", sources["master_key_file"], "master_keys is given too: one of both"
        )
    longest_s = config.lease_ttl_s / limits.HEARTBEATS_PER_LEASE_MIN
    if config.heartbeat_s > longest_s:
        raise ConfigError(
            "heartbeat_s",
            sources.get("heartbeat_s", "default"),
            f"{config.heartbeat_s:g} is not seconds up to {longest_s:g}, "
            f"half of lease_ttl_s ({config.lease_ttl_s:g})",
        )


def _verified(config: Config, sources: Mapping[str, str]) -> Config:
    """With URLs that make drivers insist on TLS and on who the server is."""
    urls = {
        "postgres_tls_ca": ("postgres_url", _verified_postgres),
        "redis_tls_ca": ("redis_url", _verified_redis),
    }
    for name, (url_name, verified) in urls.items():
        if (ca := getattr(config, name)) is None:
            continue
        if not ca.is_file():
            raise ConfigError(name, sources[name], f"there is no file {ca}")
        try:
            changed: dict[str, Any] = {url_name: verified(getattr(config, url_name), ca)}
        except ValueError as error:
            raise ConfigError(name, sources[name], str(error)) from None
        config = replace(config, **changed)
    return config


def _verified_postgres(url: str, ca: Path) -> str:
    parts = urlsplit(url)
    query = dict(parse_qsl(parts.query))
    host = query.get("host", parts.hostname) or ""
    if not host or "/" in host:
        raise ValueError("postgres_url must name a host: a socket has no TLS")
    query |= {"sslmode": "verify-full", "sslrootcert": str(ca)}
    return urlunsplit(parts._replace(query=urlencode(query)))


def _verified_redis(url: str, ca: Path) -> str:
    parts = urlsplit(url)
    if parts.scheme != "rediss":
        raise ValueError("redis_url must begin with rediss://")
    query = dict(parse_qsl(parts.query))
    query |= {"ssl_cert_reqs": "required", "ssl_check_hostname": "true", "ssl_ca_certs": str(ca)}
    return urlunsplit(parts._replace(query=urlencode(query)))
