"""What the machine of graphs plays by hand, for examples may leave it out: each policy through each
thing that may happen to an edge. A play is short, so jobs are picked by small numbers: the first of
those that the step is for."""

from collections.abc import Iterator
from itertools import product
from typing import Any, Literal

from taskforge_server.engine.model.graph import POLICIES, OnFailure
from tests.support.table_model import Call

End = Literal["well", "badly", "once more"]
Shaped = tuple[bool, bool, dict[int, OnFailure]]
"""In queue one; with a time of its own; its parents by how far before, with the policies."""

ROOT: Shaped = (False, False, {})
HOWS: tuple[End, ...] = ("well", "badly", "once more")


def submit(*shape: Shaped, **behind: Any) -> Call:
    return Call("submit", {"shape": [*shape], "behind": behind.get("behind", {})})


def end(how: End = "well", pick: int = 0) -> Call:
    return Call("end", {"how": how, "pick": pick})


def cancel() -> Call:
    return Call("cancel", {"pick": 0})


def again() -> Call:
    return Call("run_again", {"pick": 0})


def die(written: bool) -> Call:
    return Call("die", {"written": written})


def away(number: int) -> Call:
    return Call("lose_a_shard", {"number": number, "pick": 0, "how": "well"})


def add(parent: int, policy: OnFailure, pick: int = 0) -> Call:
    return Call("add_parent", {"pick": pick, "parent": parent, "policy": policy})


TIME, LOOK, PURGE = Call("pass_time", {}), Call("look_over", {}), Call("purge", {"pick": 0})


def rare() -> Iterator[list[Call]]:
    """All plays."""
    for how, policy in product(HOWS, POLICIES):
        children: list[Shaped] = [(True, False, {1: policy}), (False, True, {2: policy})]
        for written in (False, True):
            args: dict[str, Any] = {"pick": 0, "how": how, "written": written}
            yield [submit(ROOT, *children), Call("die_after_the_end", args), LOOK, TIME, end()]
            middle: Shaped = (False, False, {1: "run_anyway"})
            ended = Call("die_after_the_end", args)
            yield [submit(ROOT, middle, (True, False, {1: policy})), end(), ended, LOOK, end()]
            after = [submit((True, False, {}), behind={0: policy}), again()]
            yield [submit(ROOT), end("badly"), *after, ended, LOOK, end()]
        args = {"pick": 0, "how": how, "policy": policy}
        yield [submit(ROOT), Call("end_behind_a_newcomer", args), LOOK, TIME, end()]
        yield [
            submit(ROOT, ROOT, (True, False, {1: "block"})),
            end(how),
            add(0, policy),
            LOOK,
            end(),
        ]
        yield [
            submit(ROOT),
            end(how),
            submit(ROOT, behind={0: policy}),
            LOOK,
            again(),
            end(),
            end(),
        ]
        purged = [PURGE, LOOK, again(), LOOK]
        yield [submit(ROOT, ROOT, (True, False, {1: "block", 2: policy})), end(how), *purged, end()]
    chain: list[Shaped] = [(True, False, {1: "cancel"}), (False, False, {1: "run_anyway"})]
    chain += [(True, False, {2: "cancel"}), (True, False, {3: "block"})]
    for parting in ([], [die(False)], [die(True)], [away(0)], [away(1)]):
        yield [submit(ROOT, *chain), end("badly"), LOOK, *parting, again(), LOOK, again(), LOOK,
               end(), LOOK, *parting, end(), again(), LOOK]  # fmt: skip
        yield [submit(ROOT, (True, False, {1: "block"})), end("badly"), *parting, again(),
               end("badly"), again(), end(), LOOK]  # fmt: skip
        three: list[Shaped] = [ROOT, (True, False, {}), (True, True, {1: "block", 2: "block"})]
        yield [submit(*three), *parting, end(), LOOK, *parting, end(), LOOK, TIME]
        yield [submit(*three), *parting, end(pick=1), LOOK, *parting, end(), LOOK, TIME]
        later: Shaped = (True, True, {})
        yield [submit(ROOT, ROOT, later), add(0, "cancel"), add(0, "run_anyway"), add(1, "block"),
               LOOK, *parting, end(), LOOK, end(), *parting, TIME]  # fmt: skip
        yield [submit(ROOT, ROOT, later), add(0, "cancel"), *parting, end("badly"), LOOK, again()]
        yield [submit(ROOT, (True, False, {1: "block"})), cancel(), LOOK, *parting,
               submit(ROOT, behind={0: "block"}), end(), LOOK, again(), end()]  # fmt: skip
        yield [submit(ROOT, (True, False, {1: "block"})), cancel(), end(), *parting, again(), LOOK]
