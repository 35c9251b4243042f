"""Configuration: which source wins, and what a wrong option says."""

from pathlib import Path

import pytest

from taskforge_server.engine.config import Config, load, options
from taskforge_server.engine.errors import ConfigError


def test_later_sources_win(tmp_path: Path) -> None:
    file = tmp_path / "taskforge.toml"
    file.write_text('port = 1\nshards = 2\nhost = "file"\n')
    environment = {"TASKFORGE_SHARDS": "3", "TASKFORGE_HOST": "environment", "OTHER": "x"}
    config = load({"host": "flag", "port": None}, environment, file)
    assert (config.port, config.shards, config.host) == (1, 3, "flag")
    assert config.lease_ttl_s == Config().lease_ttl_s


def test_the_file_may_be_named_by_the_environment(tmp_path: Path) -> None:
    file = tmp_path / "other.toml"
    file.write_text("port = 7\n")
    assert load({}, {"TASKFORGE_CONFIG": str(file)}).port == 7


def test_every_default_passes_its_own_rule() -> None:
    for name in options():
        default = getattr(Config(), name)
        if default is not None:
            assert getattr(load({name: default}, {}), name) == default


@pytest.mark.parametrize(
    ("name", "raw", "accepted"),
    [
        ("port", "many", "a whole number from 0 to 65535"),
        ("port", 65_536, "a whole number from 0 to 65535"),
        ("port", True, "a whole number"),
        ("port", 1.5, "a whole number"),
        ("shards", "0", "from 1 to 4096"),
        ("lease_ttl_s", "nan", "seconds from 1 to 3600"),
        ("lease_ttl_s", "soon", "seconds"),
        ("memory_bytes_max", "1MiB", "at least"),
        ("memory_bytes_max", "much", "a size such as 512MiB"),
        ("unsafe", "perhaps", "true or false"),
        ("postgres_url", "mysql://x", "postgresql://"),
        ("redis_url", "localhost", "redis://"),
        ("log_level", "loud", "one of debug, info"),
        ("host", "", "text of 1 to"),
        ("api_key", 5, "text of 1 to"),
    ],
)
def test_wrong_values_name_the_option(name: str, raw: object, accepted: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load({name: raw}, {})
    assert caught.value.option == name
    assert accepted in str(caught.value)
    assert f"--{name.replace('_', '-')}" in str(caught.value)


def test_unknown_options_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"prot.*TASKFORGE_PROT.*did you mean port"):
        load({}, {"TASKFORGE_PROT": "1"})
    file = tmp_path / "x.toml"
    file.write_text("prot = 1\n")
    with pytest.raises(ConfigError, match=r"prot"):
        load({}, {}, file)


def test_broken_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot read"):
        load({}, {}, tmp_path / "missing.toml")
    file = tmp_path / "x.toml"
    file.write_text("port 1")
    with pytest.raises(ConfigError, match="not a TOML file"):
        load({}, {}, file)


def test_a_data_dir_that_is_a_file(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(ConfigError, match="directory"):
        load({"data_dir": file}, {})


def test_heartbeats_fit_into_the_lease() -> None:
    assert load({"lease_ttl_s": 3}, {}).heartbeat_s == 1
    with pytest.raises(ConfigError, match=r"heartbeat_s.*half of lease_ttl_s \(10\)"):
        load({"lease_ttl_s": 10, "heartbeat_s": 6}, {})


def test_sizes() -> None:
    for text, size in (
        ("1GiB", 2**30),
        ("0.5 gib", 2**29),
        ("100000000", 10**8),
        ("70MB", 7 * 10**7),
    ):
        assert load({"memory_bytes_max": text}, {}).memory_bytes_max == size


def test_secrets_are_not_shown() -> None:
    config = load({"api_key": "canary-1", "postgres_url": "postgresql://u:canary-2@h/d"}, {})
    assert "canary" not in repr(config)
    with pytest.raises(ConfigError) as caught:
        load({"postgres_url": "canary-3://"}, {})
    assert "canary" not in str(caught.value)


def test_master_keys_are_given_in_one_place_and_never_shown(tmp_path: Path) -> None:
    config = load({}, {"TASKFORGE_MASTER_KEYS": "2026:c4n4ry"})
    assert "c4n4ry" not in repr(config)
    with pytest.raises(ConfigError, match="one of both") as refused:
        load({"master_key_file": tmp_path}, {"TASKFORGE_MASTER_KEYS": "2026:c4n4ry"})
    assert "c4n4ry" not in str(refused.value)
