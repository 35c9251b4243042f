"""What tokens are signed with: made once, followed by others, sealed under a master key."""

import asyncio
import base64

import pytest

from taskforge_server.engine import limits
from taskforge_server.engine.errors import ConfigError
from taskforge_server.engine.store.pool import Pool
from taskforge_server.engine.store.signing_keys import SigningKeys
from taskforge_server.engine.vault.masters import MasterKeys

MASTERS = MasterKeys([("2026", b"m" * 32)])
OTHERS = MasterKeys([("2027", b"o" * 32)])


async def test_nodes_that_start_together_make_one_key(pool: Pool) -> None:
    made = await asyncio.gather(*(SigningKeys(pool, MASTERS).ensure() for _ in range(4)))
    assert sorted(made) == [False, False, False, True]
    keys = await SigningKeys(pool, MASTERS).all()
    assert len(keys) == 1
    assert len(keys[0].secret) == 32
    assert keys[0].secret.hex() not in repr(keys[0])


async def test_an_old_key_is_followed_by_a_new_one_and_goes_when_its_tokens_are_over(
    pool: Pool,
) -> None:
    rows = SigningKeys(pool, MASTERS)
    await rows.ensure()
    (first,) = await rows.all()
    assert await rows.ensure(life_s=0.0)
    second, still = await rows.all()
    assert still == first, "it verifies while tokens of it may live"
    assert second.id != first.id
    await pool.execute(
        "UPDATE signing_keys SET created_at = created_at - make_interval(secs => $1)",
        limits.REVOCATIONS_KEPT_S + 1.0,
    )
    assert not await rows.ensure()
    assert await rows.all() == [second]


async def test_after_a_theft_no_other_key_is_left(pool: Pool) -> None:
    rows = SigningKeys(pool, MASTERS)
    await rows.ensure()
    (stolen,) = await rows.all()
    await rows.replace()
    (new,) = await rows.all()
    assert new.id != stolen.id


async def test_a_secret_is_sealed_under_the_master_key(
    pool: Pool, caplog: pytest.LogCaptureFixture
) -> None:
    rows = SigningKeys(pool, MASTERS)
    await rows.ensure()
    (key,) = await rows.all()
    stored = await pool.fetchval("SELECT secret FROM signing_keys")
    assert stored.startswith("taskforge:secret:")
    assert base64.b64encode(key.secret).decode() not in stored
    assert await SigningKeys(pool, OTHERS).all() == [], "without the master key it is of no use"
    assert key.id in caplog.text
    # The name is bound to it: it is of no use as another key either.
    await pool.execute("UPDATE signing_keys SET id = 'other'")
    assert await rows.all() == []


async def test_what_was_stored_plain_is_sealed_once_and_followed_by_another(pool: Pool) -> None:
    secret = b"s" * 32
    plain = "plain:" + base64.b64encode(secret).decode()
    await pool.execute("INSERT INTO signing_keys (id, secret) VALUES ('old', $1)", plain)
    rows = SigningKeys(pool, MASTERS)
    assert await rows.all() == [], "as it is, whoever writes the database could sign"
    await asyncio.gather(*(SigningKeys(pool, MASTERS).start() for _ in range(3)))
    newest, old = await rows.all()
    assert (old.id, old.secret) == ("old", secret), "its tokens stay good until they are over"
    assert newest.secret != secret
    assert await rows.masters() == {"2026": 2}


async def test_a_start_with_other_master_keys_is_refused_until_there_is_a_new_key(
    pool: Pool,
) -> None:
    await SigningKeys(pool, MASTERS).ensure()
    for masters in (OTHERS, MasterKeys([("2026", b"o" * 32)])):
        with pytest.raises(ConfigError, match=r"under '2026'.*rotate-key --revoke"):
            await SigningKeys(pool, masters).start()
    await SigningKeys(pool, OTHERS).replace()
    await SigningKeys(pool, OTHERS).start()
