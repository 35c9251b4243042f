"""Sign-up, login, tokens: what a person gets, and for how long it is good."""

from tests.support.people import serving


async def test_sign_up_gives_an_organisation_and_a_session(postgres_url: str) -> None:
    async with serving(postgres_url) as site:
        ada = await site.sign_up("Ada@Example.com")
        me = await site.get("/v1/me", ada)
        assert me.status == 200
        assert me.json["user"]["email"] == "ada@example.com"
        assert me.json["user"]["role"] == "admin"
        assert me.json["project_id"] is None
        assert "users:manage" in me.json["permissions"]
        assert "jobs:write" not in me.json["permissions"]
        assert (await site.get("/v1/queues", ada)).status == 403
        ada = await site.open_project(ada)
        made = await site.post("/v1/queues", ada, {"name": "mail"})
        assert made.status == 201, made.body
        again = await site.log_in(ada)
        assert (await site.get("/v1/me", again)).status == 200
        bob = await site.member(ada)
        assert (await site.get("/v1/me", bob)).json["user"]["role"] == "member"
