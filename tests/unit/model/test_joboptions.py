"""What a job is told: packed, read and changed; what a reader does not know is passed over."""

import msgpack

from taskforge_server.engine.model.joboptions import (
    PLAIN,
    JobOptions,
    more_anew,
    pack_told,
    read_options,
    read_told,
    told_anew,
)


def test_a_plain_job_is_told_nothing() -> None:
    assert PLAIN.stored() is None
    assert pack_told({"more": JobOptions(), "tags": [], "keep": False, "unique_key": None}) is None
    assert read_told(None) == ({}, PLAIN)


def test_keys_stand_in_the_order_of_the_table() -> None:
    packed = pack_told(
        {"keep": True, "more": JobOptions(expires_us=5), "waiting_on": 0, "tags": ["a"]}
    )
    assert packed is not None
    assert [*msgpack.unpackb(packed)] == ["tags", "waiting_on", "more", "keep"]
    assert read_told(packed).more == JobOptions(expires_us=5)


def test_other_formatting_and_unknown_fields_change_nothing() -> None:
    assert read_options(b'{ "of_a_newer_node": [1],  "expires_us": 5 }') == JobOptions(expires_us=5)


def test_some_keys_change_and_the_others_stay() -> None:
    packed = pack_told({"tags": ["a"], "waiting_on": 2, "more": JobOptions(expires_us=5)})
    assert told_anew(packed, waiting_on=None, more=None) == pack_told({"tags": ["a"]})
    assert told_anew(pack_told({"waiting_on": 2}), waiting_on=None) == b""


def test_fields_change_and_those_of_a_newer_version_stay() -> None:
    packed = pack_told({"tags": ["a"], "more": b'{"newer": [1], "expires_us": 5}'})
    changed = more_anew(packed, expires_us=0, cancel_us=3)
    assert msgpack.unpackb(changed)["more"] == b'{"newer":[1],"cancel_us":3}'
    assert more_anew(pack_told({"more": JobOptions(cancel_us=1)}), cancel_us=0) == b""
