"""What tokens are signed with: made once, followed by others, sealed under a master key."""

import asyncio
import base64

import pytest

from taskforge_server.engine import limits
from taskforge_server.engine.store.pool import Pool
from taskforge_server.engine.store.signing_keys import SigningKeys
from taskforge_server.engine.vault.masters import MasterKeys


async def test_nodes_that_start_together_make_one_key(pool: Pool) -> None:
    made = await asyncio.gather(*(SigningKeys(pool).ensure() for _ in range(4)))
    assert sorted(made) == [False, False, False, True]
    keys = await SigningKeys(pool).all()
    assert len(keys) == 1
    assert len(keys[0].secret) == 32
    assert keys[0].secret.hex() not in repr(keys[0])


async def test_an_old_key_is_followed_by_a_new_one_and_goes_when_its_tokens_are_over(
    pool: Pool,
) -> None:
    rows = SigningKeys(pool)
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
    rows = SigningKeys(pool)
    await rows.ensure()
    (stolen,) = await rows.all()
    await rows.replace()
    (new,) = await rows.all()
    assert new.id != stolen.id


async def test_a_secret_is_sealed_under_the_master_key(
    pool: Pool, caplog: pytest.LogCaptureFixture
) -> None:
    masters = MasterKeys([("m1", b"m" * 32)])
    rows = SigningKeys(pool, masters)
    await rows.ensure()
    (key,) = await rows.all()
    stored = await pool.fetchval("SELECT secret FROM signing_keys")
    assert stored.startswith("taskforge:secret:")
    assert base64.b64encode(key.secret).decode() not in stored
    assert await SigningKeys(pool).all() == [], "without the master key it is of no use"
    assert key.id in caplog.text
    # The name is bound to it: it is of no use as another key either.
    await pool.execute("UPDATE signing_keys SET id = 'other'")
    assert await rows.all() == []


async def test_without_a_master_key_it_says_so(
    pool: Pool, caplog: pytest.LogCaptureFixture
) -> None:
    await SigningKeys(pool).ensure()
    assert "no master key" in caplog.text
