"""Named SQL of the journal: every statement stands in `sql/<name>.sql`, under why it is so."""

from functools import cache
from importlib.resources import files

_FOLDER = files("taskforge_server.engine.journal") / "sql"


@cache
def sql(name: str) -> str:
    """The text of a statement."""
    return (_FOLDER / f"{name}.sql").read_text(encoding="utf-8")
