"""The parents of a job as its options carry them, read and rewritten.

    waiting_on   how many edges are open
    more         JobOptions, whose `parents` has the edges
    keep         a parent's row stays, so that its children find how it ended

What stands beside them passes through as it is, known or not.
"""

from collections.abc import Iterable
from typing import Any

import msgpack
import msgspec

from taskforge_server.engine.model.graph import Edge, Parents, packed
from taskforge_server.engine.model.joboptions import pack_told, read_told, told_anew

MARK = b'"parents":'
"""Stands in the options of every job that was told of parents, and so in the log."""


def parents_of(options: bytes | None) -> Parents | None:
    """What the job waits for, or was told of at its submit."""
    return read_told(options).more.parents if options and MARK in options else None


def with_parents(
    options: bytes | None, edges: Iterable[Edge], not_before_us: int, *, keep: bool = False
) -> bytes:
    """The options of a job that waits for these; and whose row stays."""
    told = list(edges)
    parents = Parents(packed(told), not_before_us)
    return _rewritten(options, parents, sum(not edge.done for edge in told), keep=keep)


def without_parents(options: bytes | None) -> bytes:
    """The options of a job that waits for nobody; empty when nothing is left."""
    return _rewritten(options, None, 0)


def kept(options: bytes | None) -> bytes | None:
    """The options of a job whose row stays; None where they say so already."""
    return None if read_told(options).named.get("keep") else told_anew(options, keep=True)


def _rewritten(
    options: bytes | None, parents: Parents | None, waiting_on: int, *, keep: bool = False
) -> bytes:
    named: dict[str, Any] = msgpack.unpackb(options) if options else {}
    more: dict[str, Any] = msgspec.json.decode(named.get("more") or b"{}")
    more.pop("parents", None)
    if parents is not None:
        more["parents"] = parents
    named["more"] = msgspec.json.encode(more) if more else None
    named["waiting_on"] = waiting_on or None
    if keep:
        named["keep"] = True
    return pack_told(named) or b""
