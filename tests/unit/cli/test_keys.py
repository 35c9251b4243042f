"""The master key of a data directory."""

from pathlib import Path

from taskforge_server.api.cli.commands import master_key_file
from taskforge_server.engine.config import Config
from taskforge_server.engine.node.masterkeys import master_keys_of


def test_dev_makes_a_master_key_once_for_its_user_alone(tmp_path: Path) -> None:
    path = master_key_file(Config(data_dir=tmp_path))
    assert path is not None
    made = path.read_text()
    assert path.stat().st_mode & 0o777 == 0o600
    assert master_key_file(Config(data_dir=tmp_path)) == path
    assert path.read_text() == made
    assert master_keys_of(Config(master_key_file=path)).current == "dev"


def test_dev_takes_the_keys_that_are_given(tmp_path: Path) -> None:
    assert master_key_file(Config(data_dir=tmp_path, master_keys="2026:x")) is None
    assert master_key_file(Config(data_dir=tmp_path, master_key_file=tmp_path / "k")) is None
    assert not list(tmp_path.iterdir())
