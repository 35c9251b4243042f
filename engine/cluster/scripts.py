"""Named scripts of the cluster: each stands in `lua/<name>.lua`, under why it is so."""

from functools import cache
from importlib.resources import files

_FOLDER = files("taskforge_server.engine.cluster") / "lua"


@cache
def script(name: str) -> str:
    """The text of a script."""
    return (_FOLDER / f"{name}.lua").read_text(encoding="utf-8")
