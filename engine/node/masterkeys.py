"""The master keys of this installation, as its configuration gives them.

There is always one: what is secret is stored encrypted only.
"""

from taskforge_server.engine import limits
from taskforge_server.engine.config import Config
from taskforge_server.engine.errors import ConfigError
from taskforge_server.engine.vault.masters import MasterKeys, parse_master_keys


def master_keys_of(config: Config) -> MasterKeys:
    """ConfigError when there are none; it never repeats what stands there."""
    if config.master_keys is not None:
        return _parsed(config.master_keys, "master_keys", "configuration")
    path = config.master_key_file
    if path is None:
        raise ConfigError("master_key_file", "configuration", _HOW_TO_MAKE)
    try:
        with path.open("rb") as file:
            content = file.read(limits.MASTER_KEYS_BYTES_MAX + 1)
        text = content.decode()
    except OSError as error:
        problem = f"cannot read it: {error.strerror}"
        raise ConfigError("master_key_file", str(path), problem) from None
    except UnicodeDecodeError:
        raise ConfigError("master_key_file", str(path), "it is not text") from None
    if len(content) > limits.MASTER_KEYS_BYTES_MAX:
        problem = f"more than {limits.MASTER_KEYS_BYTES_MAX} bytes"
        raise ConfigError("master_key_file", str(path), problem)
    return _parsed(text, "master_key_file", str(path))


_HOW_TO_MAKE = (
    "no master key is given, and secrets are stored encrypted only. "
    "`taskforge keys new 2026 --file master.keys` makes one; name the file with "
    "`--set master_key_file=master.keys` or TASKFORGE_MASTER_KEY_FILE, for all nodes and commands, "
    "and keep a copy where backups of the database are not"
)


def _parsed(text: str, option: str, source: str) -> MasterKeys:
    try:
        keys = parse_master_keys(text)
    except ValueError as error:
        problem = f"{error}; `taskforge keys new` makes one"
        raise ConfigError(option, source, problem) from None
    if not keys:
        raise ConfigError(option, source, "there is no key; `taskforge keys new` makes one")
    return MasterKeys(keys)
