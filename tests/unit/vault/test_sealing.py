"""Sealed texts open in their place alone."""

import base64
import itertools
import json
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskforge_server.engine.errors import Unavailable
from taskforge_server.engine.vault.sealing import (
    PREFIX,
    DataKey,
    Field,
    UnreadableError,
    content_of,
    key_id_of,
    looks_sealed,
)
from taskforge_server.engine.vault.vault import Ring, UnknownKeyError, Vault

PROJECT, OTHER_PROJECT = b"p" * 16, b"o" * 16
JOB, OTHER_JOB = b"j" * 16, b"k" * 16
TEXT = b'{"canary":"c4n4ry"}'


def key(number: int = 1) -> DataKey:
    return DataKey(os.urandom(16), number, os.urandom(32))


def ring(*keys: DataKey, project_id: bytes = PROJECT, encrypted: bool = True) -> Ring:
    made = Ring(project_id, encrypted)
    for one in keys:
        made.add(one)
    return made


@given(st.binary(min_size=1, max_size=300))
def test_what_is_sealed_opens_and_is_json(text: bytes) -> None:
    one = ring(key())
    sealed = one.seal(JOB, "payload", text)
    assert looks_sealed(sealed)
    assert isinstance(json.loads(sealed), str)
    assert text not in sealed or len(text) < 3
    assert one.open(JOB, "payload", sealed) == text


def test_the_same_text_is_never_sealed_alike() -> None:
    one = ring(key())
    assert len({one.seal(JOB, "payload", TEXT) for _ in range(100)}) == 100


def test_a_batch_has_a_key_of_its_own_and_a_nonce_for_each_text() -> None:
    one = ring(key())
    ids = [bytes([number]) * 16 for number in range(50)]
    batches = [one.seal_payloads(b"".join(ids), [TEXT] * 50) for _ in range(2)]
    heads = [[(content_of(text) or b"")[16:36] for text in batch] for batch in batches]
    assert len({head for batch in heads for head in batch}) == 100
    assert len({head[:16] for batch in heads for head in batch}) == 2
    for batch in batches:
        for job_id, text in zip(ids, batch, strict=True):
            assert one.open(job_id, "payload", text) == TEXT
        with pytest.raises(UnreadableError):
            one.open(ids[1], "payload", batch[0])


def test_what_is_kept_of_batches_is_bounded() -> None:
    only = key()
    one = ring(only)
    texts = [one.seal(JOB, "payload", b"%d" % number) for number in range(600)]
    for _ in range(2):
        assert [one.open(JOB, "payload", text) for text in texts] == [b"%d" % n for n in range(600)]
    assert 0 < len(only._ciphers) <= 256


def test_it_opens_in_no_other_place() -> None:
    same = key()
    places: list[tuple[bytes, bytes, Field]] = [
        (project, job, field)
        for project, job, field in itertools.product(
            (PROJECT, OTHER_PROJECT),
            (JOB, OTHER_JOB),
            ("payload", "result", "error", "log", "log_metadata"),
        )
    ]
    rings = {project: ring(same, project_id=project) for project in (PROJECT, OTHER_PROJECT)}
    for sealed_at, opened_at in itertools.product(places, places):
        sealed = rings[sealed_at[0]].seal(sealed_at[1], sealed_at[2], TEXT)
        if sealed_at == opened_at:
            assert rings[opened_at[0]].open(opened_at[1], opened_at[2], sealed) == TEXT
        else:
            with pytest.raises(UnreadableError):
                rings[opened_at[0]].open(opened_at[1], opened_at[2], sealed)


def test_every_changed_byte_is_noticed() -> None:
    one = ring(key())
    content = content_of(one.seal(JOB, "payload", TEXT))
    assert content is not None
    for place in range(len(content)):
        changed = bytearray(content)
        changed[place] ^= 1
        with pytest.raises(UnreadableError):
            one.open(JOB, "payload", PREFIX + base64.b64encode(changed) + b'"')
    for cut in (0, 1, 35, 36, 51, 52, len(content) - 1):
        with pytest.raises(UnreadableError):
            one.open(JOB, "payload", PREFIX + base64.b64encode(content[:cut]) + b'"')


@pytest.mark.parametrize("text", [PREFIX, PREFIX + b'"', PREFIX + b'%"', PREFIX + b"AAAA"])
def test_what_only_looks_sealed_is_unreadable_and_never_data(text: bytes) -> None:
    with pytest.raises(UnreadableError):
        ring(key()).open(JOB, "payload", text)


def test_the_id_of_the_key_is_bound_too() -> None:
    secret = os.urandom(32)
    first, second = DataKey(b"1" * 16, 1, secret), DataKey(b"2" * 16, 2, secret)
    sealed = ring(first).seal(JOB, "payload", TEXT)
    content = content_of(sealed)
    assert content is not None
    assert key_id_of(content) == first.id
    moved = PREFIX + base64.b64encode(second.id + content[16:]) + b'"'
    with pytest.raises(UnreadableError):
        ring(first, second).open(JOB, "payload", moved)


def test_a_key_shows_nothing_of_its_secret() -> None:
    secret = os.urandom(32)
    one = DataKey(b"1" * 16, 7, secret)
    assert secret.hex() not in repr(one)
    assert repr(secret) not in repr(one)


# rings


def test_the_newest_key_seals_and_every_key_opens() -> None:
    first, second = key(1), key(2)
    before = ring(first).seal(JOB, "payload", TEXT)
    both = ring(second, first)
    content = content_of(both.seal(JOB, "payload", TEXT))
    assert content is not None
    assert key_id_of(content) == second.id
    assert both.open(JOB, "payload", before) == TEXT
    with pytest.raises(UnknownKeyError):
        ring(second).open(JOB, "payload", before)


def test_texts_from_before_the_switch_pass_and_those_after_it_open_still() -> None:
    one = key()
    assert ring(one).open(JOB, "payload", TEXT) == TEXT
    off = ring(one, encrypted=False)
    assert off.seal(JOB, "payload", TEXT) == TEXT
    assert off.open(JOB, "payload", ring(one).seal(JOB, "payload", TEXT)) == TEXT


def test_without_its_newest_key_a_ring_refuses_rather_than_seal_with_an_older() -> None:
    broken = ring(key(1))
    broken.numbers.add(2)
    assert not broken.whole
    with pytest.raises(Unavailable):
        broken.seal(JOB, "payload", TEXT)


def test_a_ring_without_keys_never_lets_a_text_pass() -> None:
    empty = ring()
    assert not empty.whole
    with pytest.raises(Unavailable):
        empty.seal(JOB, "payload", TEXT)
    with pytest.raises(Unavailable):
        empty.digest(TEXT)


def test_the_digest_stays_when_keys_are_rotated() -> None:
    first = key(1)
    assert ring(first).digest(b"body") == ring(first, key(2)).digest(b"body")
    assert ring(first).digest(b"body") != ring(key(1)).digest(b"body")


# the vault


def test_a_vault_without_rings_is_not_active() -> None:
    vault = Vault()
    assert not vault.active
    assert vault.ring(PROJECT) is None


def test_keys_that_vanish_from_the_table_open_still_but_nothing_is_sealed_without_them() -> None:
    vault, first, second = Vault(), key(1), key(2)
    assert vault.replace([ring(first, second)]) == []
    sealed = ring(first, second).seal(JOB, "payload", TEXT)
    for rows in ([first], [first, key(2)], []):
        assert vault.replace([ring(*rows)]) == [PROJECT]
        kept = vault.ring(PROJECT)
        assert kept is not None
        assert kept.open(JOB, "payload", sealed) == TEXT
    assert not kept.whole
    with pytest.raises(Unavailable):
        kept.seal(JOB, "payload", TEXT)
    vault.replace([ring(first, second)])
    assert vault.replace([]) == []
    assert vault.ring(PROJECT) is None


def test_only_sealed_texts_under_unknown_keys_may_need_news() -> None:
    vault, first, second = Vault(), key(1), key(2)
    vault.replace([ring(first)])
    assert not vault.may_need(PROJECT, TEXT)
    assert not vault.may_need(PROJECT, None)
    assert not vault.may_need(PROJECT, ring(first).seal(JOB, "payload", TEXT))
    assert vault.may_need(PROJECT, ring(second).seal(JOB, "payload", TEXT))
    assert vault.may_need(OTHER_PROJECT, ring(first).seal(JOB, "payload", TEXT))
