"""`taskforge identity`: what operators do, while a node runs."""

import asyncio
import re
import shutil
from dataclasses import replace
from pathlib import Path

import jwt
import pytest
from typer.testing import CliRunner

from taskforge_server.api.cli.main import app
from taskforge_server.engine import limits
from tests.integration.api.conftest import until
from tests.support.masterkeys import MASTER_KEYS
from tests.support.people import Site

GUIDE = Path(__file__).parents[3] / "docs" / "guides" / "identity.md"

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def run(url: str, *arguments: str) -> str:
    """What the command prints; it must succeed."""
    command = ["identity", *arguments, "--postgres-url", url]
    command += ["--set", f"master_keys={MASTER_KEYS}"]
    result = await asyncio.to_thread(CliRunner().invoke, app, command)
    assert result.exit_code == 0, result.output
    return str(result.output)


async def test_a_new_key_signs_and_the_old_one_verifies(
    own_site: Site, postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Nothing is remembered: each request reads the keys and verifies.
    monkeypatch.setattr(limits, "SIGNING_KEYS_READ_S", 0.0)
    monkeypatch.setattr(limits, "TOKEN_BELIEVED_S", 0.0)
    ada = await own_site.sign_up()
    assert "new key signs" in await run(postgres_url, "rotate-key")
    newer = await own_site.log_in(ada)
    kids = [jwt.get_unverified_header(who.access_token)["kid"] for who in (ada, newer)]
    assert kids[0] != kids[1]
    for who in (ada, newer):
        assert (await own_site.get("/v1/me", who)).status == 200
    assert "no other is left" in await run(postgres_url, "rotate-key", "--revoke")
    for who in (ada, newer):
        assert (await own_site.get("/v1/me", who)).status == 401
    answer = await own_site.post("/v1/auth/refresh", value={"refresh_token": ada.refresh_token})
    assert (await own_site.get("/v1/me", answer.json["access_token"])).status == 200


async def test_a_reset_password_ends_all_sessions(own_site: Site, postgres_url: str) -> None:
    ada = await own_site.sign_up()
    printed = await run(postgres_url, "reset-password", ada.email.upper())
    password = printed.strip().rpartition(" ")[2]
    user = bytes.fromhex(ada.id.replace("-", ""))
    await until(lambda: own_site.node.token_news.refuses(user, 1))
    assert (await own_site.get("/v1/me", ada)).status == 401
    assert await own_site.log_in(replace(ada, password=password))
    acts = await own_site.node.pool.fetch("SELECT actor_kind, action FROM audit_log")
    assert ("operator", "user.reset_password") in [tuple(act) for act in acts]


async def test_an_account_that_is_not_there(postgres_url: str) -> None:
    command = ["identity", "reset-password", "x@example.com", "--postgres-url", postgres_url]
    result = await asyncio.to_thread(CliRunner().invoke, app, command)
    assert result.exit_code == 1
    assert "no account" in result.output


@pytest.mark.skipif(not (shutil.which("curl") and shutil.which("jq")), reason="no curl or jq")
async def test_the_guide_says_what_is_true(own_site: Site, tmp_path: Path) -> None:
    blocks = re.findall(r"```\n(.*?)```", GUIDE.read_text(encoding="utf-8"), re.DOTALL)
    curls = [block for block in blocks if "curl" in block]
    assert len(curls) == 4
    script = "".join(curls).replace("http://127.0.0.1:8040", own_site.url)
    process = await asyncio.create_subprocess_exec(
        "bash",
        "-euo",
        "pipefail",
        "-c",
        script.replace("curl -s", "curl -sSf"),  # an answer that is a problem ends it
        cwd=tmp_path,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    told, _ = await process.communicate()
    assert process.returncode == 0, told.decode()
    emails = await own_site.node.pool.fetch("SELECT email FROM users ORDER BY email")
    assert [row["email"] for row in emails] == ["charles@example.com", "grace@example.com"]
