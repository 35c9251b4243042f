"""`taskforge organizations`, `projects` and `api-keys`, while a node runs; sign-up is closed."""

import asyncio
import re

from typer.testing import CliRunner, Result

from taskforge_server.api.cli.main import app
from tests.support.people import PASSWORD, serving
from tests.support.real_node import prepared

URLS = ("--redis-url", "redis://127.0.0.1:1")


async def run(*arguments: str) -> Result:
    return await asyncio.to_thread(CliRunner().invoke, app, list(arguments))


async def ok(*arguments: str) -> str:
    result = await run(*arguments)
    assert result.exit_code == 0, result.output
    return str(result.output)


def told(name: str, text: str) -> str:
    found = re.search(rf"^{name}.*: (\S+)$", text, re.MULTILINE)
    assert found is not None, text
    return found[1]


async def test_an_operator_makes_organisations_projects_and_keys(postgres_url: str) -> None:
    url = ("--postgres-url", postgres_url)
    async with serving(postgres_url, signup_open=False) as site:
        made = await ok("organizations", "create", "Engines", "Ada@Example.com", *url)
        organization, project = told("organization", made), told("project", made)
        assert f"{organization} ada@example.com Engines" in await ok("organizations", "list", *url)
        value = {"token": told("invitation", made), "password": PASSWORD}
        ada = (await site.post("/v1/invitations/accept", value=value)).json
        assert (ada["user"]["role"], ada["organization_id"]) == ("admin", organization)

        shop = (await ok("projects", "create", organization, "shop", *url)).strip()
        listed = await ok("projects", "list", organization, *url)
        assert {f"{project} default", f"{shop} shop"} == set(listed.splitlines())

        made = await ok("api-keys", "create", shop, "web", "--permission", "queues:read", *url)
        key_id, text = told("id", made), told("API key", made)
        assert (await site.get("/v1/queues", text)).status == 200
        listed = await ok("api-keys", "list", shop, *url)
        assert re.fullmatch(rf"{key_id} {text[:7]}\S* live queues:read web\n", listed)
        await ok("api-keys", "revoke", shop, key_id, *url, *URLS)
        site.api.authenticator.forget(None)  # the message that nobody could bring
        assert (await site.get("/v1/queues", text)).status == 401
        assert " revoked queues:read web" in await ok("api-keys", "list", shop, *url)

        audit = (await site.get("/v1/audit", ada["access_token"])).json["items"]
        assert [entry["action"] for entry in reversed(audit)] == [
            "organization.create",
            "user.invite",
            "user.join",
            "project.create",
            "api_key.create",
            "api_key.revoke",
        ]
        assert {entry["actor"]["kind"] for entry in audit} == {"operator", "user"}
        again = await run("organizations", "create", "Others", "ada@example.com", *url)
        assert (again.exit_code, "there is an account" in again.output) == (1, True)
        assert "Others" not in await ok("organizations", "list", *url)


async def test_mistakes_are_named(postgres_url: str) -> None:
    await prepared(postgres_url)
    some = "6f1c5a3e-9d1b-4b54-8c1e-0d5b0f3a7e21"
    key = ("api-keys", "create", some, "x")
    for arguments, status, said in (
        (("projects", "list", "me"), 2, "this is no id"),
        (("projects", "list", some), 1, "no such organization"),
        (("projects", "create", some, "x"), 1, "no such organization"),
        ((*key, "--permission", "jobs:read"), 1, "no such project"),
        (key, 2, "permission"),
        ((*key, "--permission", "*", "--expires", "soon"), 2, "a date such as"),
    ):
        result = await run(*arguments, "--postgres-url", postgres_url)
        assert (result.exit_code, said in result.output) == (status, True), result.output
