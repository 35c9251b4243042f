"""Named SQL: every statement stands in `sql/<name>.sql`, under a comment that says why it is so."""

from functools import cache
from importlib.resources import files

_FOLDER = files("taskforge_server.engine.store") / "sql"


@cache
def sql(name: str) -> str:
    """The text of a statement; its comments go to the server too, where a slow-query log helps."""
    return (_FOLDER / f"{name}.sql").read_text(encoding="utf-8")
