"""People at a real server: a node with its HTTP API in this process, and who logs in there.

async with serving(postgres_url) as site:
    ada = await site.sign_up()                 # an organisation with its first admin
    bob = await site.member(ada)               # a second person, invited
    ada = await site.open_project(ada)         # a session of ada's for the first project
    answer = await site.get("/v1/users", ada)
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from itertools import count
from typing import Any

import aiohttp

from taskforge_server.api.cli.serving import api_of
from taskforge_server.api.server import ApiServer
from taskforge_server.engine.cluster.memory import Exchange
from taskforge_server.engine.model.tenant import UserRole
from taskforge_server.engine.node.node import Node
from tests.support.answers import Answer
from tests.support.real_node import prepared, running_node

PASSWORD = "correct horse battery staple"

_numbers = count(1)


@dataclass(frozen=True, slots=True)
class Person:
    """Somebody with a session."""

    id: str
    email: str
    organization_id: str
    project_id: str
    """The first project of the organisation."""
    access_token: str
    refresh_token: str
    password: str = PASSWORD


@dataclass(slots=True)
class Site:
    """A server, and a client of it."""

    node: Node
    api: ApiServer
    port: int
    client: aiohttp.ClientSession

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def call(
        self,
        method: str,
        path: str,
        who: Person | str | None = None,
        value: Any = None,
        headers: dict[str, str] | None = None,
    ) -> Answer:
        """`who` is a person, or the text of a token or of an API key; nobody without."""
        sent = dict(headers or {})
        if who is not None:
            text = who.access_token if isinstance(who, Person) else who
            sent["Authorization"] = f"Bearer {text}"
        async with self.client.request(
            method, self.url + path, json=value, headers=sent
        ) as response:
            endless = response.content_type == "text/event-stream"
            read = response.content.readany if endless else response.read
            return Answer(response.status, response.headers, await read())

    async def get(self, path: str, who: Person | str | None = None) -> Answer:
        return await self.call("GET", path, who)

    async def post(self, path: str, who: Person | str | None = None, value: Any = None) -> Answer:
        return await self.call("POST", path, who, value)

    async def sign_up(self, email: str | None = None, organization: str = "Engines") -> Person:
        """A new organisation with its first admin."""
        value = {
            "organization": organization,
            "email": email or f"person{next(_numbers)}@example.com",
            "password": PASSWORD,
        }
        answer = await self.post("/v1/signup", value=value)
        assert answer.status == 201, answer.body
        return _person(answer.json, answer.json["project_id"])

    async def member(self, admin: Person, role: UserRole = "member") -> Person:
        """Another person of the admin's organisation, who was invited."""
        email = f"person{next(_numbers)}@example.com"
        invited = await self.post("/v1/invitations", admin, {"email": email, "role": role})
        assert invited.status == 201, invited.body
        value = {"token": invited.json["token"], "password": PASSWORD}
        answer = await self.post("/v1/invitations/accept", value=value)
        assert answer.status == 201, answer.body
        return _person(answer.json, admin.project_id)

    async def log_in(self, person: Person) -> Person:
        """Another session of the same person."""
        value = {"email": person.email, "password": person.password}
        answer = await self.post("/v1/auth/login", value=value)
        assert answer.status == 200, answer.body
        return _person(answer.json, person.project_id)

    async def open_project(self, person: Person, project_id: str | None = None) -> Person:
        """The same session, for a project: the first one if none is named."""
        value = {"project_id": project_id or person.project_id}
        answer = await self.post("/v1/auth/sessions/project", person, value)
        assert answer.status == 200, answer.body
        return replace(person, access_token=answer.json["access_token"])


def _person(logged_in: Any, project_id: str) -> Person:
    user = logged_in["user"]
    return Person(
        user["id"],
        user["email"],
        logged_in["organization_id"],
        project_id,
        logged_in["access_token"],
        logged_in["refresh_token"],
    )


@asynccontextmanager
async def serving(
    postgres_url: str, exchange: Exchange | None = None, **options: Any
) -> AsyncIterator[Site]:
    """A node and its API on a free port, until the end of the block. Several on one database take
    one exchange, and no shards but the first one's."""
    await prepared(postgres_url)
    async with running_node(postgres_url, exchange, **options) as node:
        api = api_of(node)
        node.queue_news.listeners.append(api.catalog.forget)
        node.key_news.listeners.append(api.authenticator.forget)
        port = await api.start("127.0.0.1", 0)
        try:
            async with aiohttp.ClientSession() as client:
                yield Site(node, api, port, client)
        finally:
            await api.stop(1.0)
