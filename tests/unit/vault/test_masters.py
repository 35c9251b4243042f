"""Master keys wrap what only they open."""

import base64
import os

import pytest

from taskforge_server.engine.vault.masters import (
    MasterKeys,
    UnknownMasterError,
    WrappedKey,
    new_master_key,
    parse_master_keys,
)
from taskforge_server.engine.vault.sealing import UnreadableError, content_of

PROJECT, OTHER_PROJECT = b"p" * 16, b"o" * 16
OLD, NEW = ("2025", os.urandom(32)), ("2026", os.urandom(32))


def test_a_wrapped_key_opens_with_its_master_key_alone() -> None:
    row = MasterKeys([OLD]).new_key(PROJECT, 1)
    assert MasterKeys([NEW, OLD]).unwrap(row).id == row.id
    with pytest.raises(UnknownMasterError, match="2025"):
        MasterKeys([NEW]).unwrap(row)
    with pytest.raises(UnreadableError):
        MasterKeys([("2025", os.urandom(32))]).unwrap(row)


@pytest.mark.parametrize(
    "other",
    [
        {"project_id": OTHER_PROJECT},
        {"id": b"x" * 16},
        {"number": 2},
        {"wrapped": b""},
        {"wrapped": bytes(60)},
    ],
)
def test_a_wrapped_key_is_bound_to_its_row(other: dict[str, object]) -> None:
    masters = MasterKeys([NEW])
    row = masters.new_key(PROJECT, 1)
    with pytest.raises(UnreadableError):
        masters.unwrap(row._replace(**other))  # type: ignore[arg-type]


def test_wrapping_anew_keeps_the_key_and_leaves_the_old_master_out() -> None:
    old = MasterKeys([OLD]).new_key(PROJECT, 1)
    anew = MasterKeys([NEW, OLD]).rewrap(old)
    assert anew is not None
    assert (anew.id, anew.number, anew.master_id) == (old.id, 1, "2026")
    sealed = MasterKeys([OLD]).unwrap(old).seal(PROJECT, "payload", [(b"j" * 16, b"1")])[0]
    content = content_of(sealed)
    assert content is not None
    opened = MasterKeys([NEW]).unwrap(anew).open(PROJECT, b"j" * 16, "payload", content)
    assert opened == b"1"
    assert MasterKeys([NEW, OLD]).rewrap(anew) is None


def test_two_keys_are_never_alike() -> None:
    masters = MasterKeys([NEW])
    rows: list[WrappedKey] = [masters.new_key(PROJECT, 1) for _ in range(50)]
    assert len({row.id for row in rows}) == len({row.wrapped for row in rows}) == 50


def test_a_secret_opens_under_its_name_alone() -> None:
    masters = MasterKeys([OLD])
    text = masters.seal_secret("signing key a", b"c4n4ry")
    assert "c4n4ry" not in text
    assert masters.open_secret("signing key a", text) == b"c4n4ry"
    for name, given in (
        ("signing key b", text),
        ("signing key a", text[:-8]),
        ("signing key a", "c4n4ry"),
        ("signing key a", text.replace("2025:", "2025:!")),
    ):
        with pytest.raises(UnreadableError):
            masters.open_secret(name, given)
    with pytest.raises(UnknownMasterError):
        MasterKeys([NEW]).open_secret("signing key a", text)
    anew = MasterKeys([NEW, OLD]).reseal_secret("signing key a", text)
    assert anew is not None
    assert MasterKeys([NEW]).open_secret("signing key a", anew) == b"c4n4ry"
    assert MasterKeys([NEW, OLD]).reseal_secret("signing key a", anew) is None


def test_the_text_of_the_configuration() -> None:
    first, second = new_master_key("2026"), new_master_key("2025")
    assert [name for name, _ in parse_master_keys(f"{first}, {second}")] == ["2026", "2025"]
    lines = f"# the first wraps, the second opens\n{first}\n\n{second}\n"
    assert parse_master_keys(lines) == parse_master_keys(f"{first},{second}")
    assert MasterKeys(parse_master_keys(lines)).current == "2026"
    assert parse_master_keys("") == []


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("c4n4ry", "key 1 is not ID:BASE64"),
        ("a b:" + "A" * 43 + "=", "key 1 is not"),
        ("a:c4n4ry!", "the key a is not base64"),
        ("a:" + base64.b64encode(bytes(16)).decode(), "16 bytes, not 32"),
        ("a:{key},a:{other}", "the key a stands there twice"),
        ("a:{key},b:{key}", "the key b stands there twice"),
        ("x" * 65 + ":{key}", "key 1 is not"),
    ],
)
def test_a_wrong_text_is_refused_without_showing_it(text: str, problem: str) -> None:
    given = text.replace("{key}", base64.b64encode(b"1" * 32).decode())
    given = given.replace("{other}", base64.b64encode(b"2" * 32).decode())
    with pytest.raises(ValueError, match=problem) as refused:
        parse_master_keys(given)
    assert "c4n4ry" not in str(refused.value)


def test_master_keys_are_never_shown() -> None:
    assert repr(MasterKeys([NEW, OLD])) == "MasterKeys(2026, 2025)"
    with pytest.raises(ValueError, match="an id has"):
        new_master_key("a:b")
