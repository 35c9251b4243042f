"""The correlation id of a request: what its answer, its log lines and its audit entry share.

A caller may give one as `X-Request-Id`; one that is missing, too long or of other characters is
replaced. Made ids are unique among all nodes: a random word for the process, then a count.
"""

import re
import secrets
from itertools import count

from taskforge_server.engine import limits
from taskforge_server.engine.observe.logs import CORRELATION_HEADER as HEADER

__all__ = ["HEADER", "id_of", "is_id", "new_id"]

_GIVEN = re.compile(rf"[A-Za-z0-9._:/+=@-]{{1,{limits.CORRELATION_ID_CHARS_MAX}}}")
_PROCESS = secrets.token_hex(8)
_numbers = count(1)


def new_id() -> str:
    """An id for a request that brought none."""
    return f"{_PROCESS}-{next(_numbers):x}"


def is_id(text: str) -> bool:
    """Whether it is fit for a header and a log line."""
    return _GIVEN.fullmatch(text) is not None


def id_of(given: str | None) -> str:
    """What the caller gave, if it is fit; else a new one."""
    return given if given is not None and is_id(given) else new_id()
