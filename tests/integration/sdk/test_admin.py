"""The clients for people and the server itself: that both mean the same, how a session stays."""

import asyncio
import inspect
import uuid
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import pytest_asyncio

from taskforge import AsyncClient, Client, NotFound, Unauthenticated
from taskforge.admin import AdminClient, AsyncAdminClient
from taskforge_server.engine import limits
from tests.support.people import PASSWORD, Site, serving

pytestmark = pytest.mark.asyncio(loop_scope="module")
GROUPS = ("users", "invitations", "projects", "api_keys", "audit")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def site(module_postgres_url: str) -> AsyncIterator[Site]:
    async with serving(module_postgres_url) as started:
        yield started


class Threaded:
    """A blocking client as an async one: its methods run in threads."""

    def __init__(self, wrapped: Any) -> None:
        self._wrapped = wrapped

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._wrapped, name)
        if not callable(found):
            return Threaded(found)
        if name in ("list", "export"):

            async def items(*args: Any, **kwargs: Any) -> AsyncIterator[Any]:
                for item in await asyncio.to_thread(lambda: list(found(*args, **kwargs))):
                    yield item

            return items

        async def run(*args: Any, **kwargs: Any) -> Any:
            result = await asyncio.to_thread(found, *args, **kwargs)
            return Threaded(result) if isinstance(result, Client) else result

        return run


MAKERS: tuple[Callable[[str], Any], ...] = (
    AsyncAdminClient,
    lambda url: Threaded(AdminClient(url)),
)


@pytest.fixture(params=MAKERS, ids=["async", "blocking"])
def make(request: pytest.FixtureRequest, site: Site) -> Callable[[], Any]:
    """Makes clients of the site."""
    return lambda: request.param(site.url)


@pytest.fixture
def email() -> str:
    """An address for each test."""
    return f"{uuid.uuid4().hex}@example.com"


async def signed_up(admin: Any, email: str) -> Any:
    return await admin.sign_up("Engines", email, PASSWORD)


async def test_people_come_in_and_go_out(make: Callable[[], Any], email: str) -> None:
    admin, other = make(), make()
    with pytest.raises(Unauthenticated):
        await admin.me()
    session = await signed_up(admin, email)
    assert (session.user.email, session.user.role) == (email, "admin")
    assert (await admin.me()).organization_id == session.organization_id
    with pytest.raises(Unauthenticated, match="login_failed"):
        await other.log_in(email, "a wrong password")
    assert (await other.log_in(email, PASSWORD)).user == session.user
    await admin.change_password(PASSWORD, "another long sentence")
    assert (await admin.me()).user.email == email
    with pytest.raises(Unauthenticated):
        await other.me()
    await admin.log_out()
    with pytest.raises(Unauthenticated):
        await admin.me()
    await admin.close()
    await other.close()


async def test_the_organisation_and_its_people(make: Callable[[], Any], email: str) -> None:
    admin, grace = make(), make()
    await signed_up(admin, email)
    changed = await admin.update_organization(name="Difference Engines")
    assert await admin.organization() == changed
    assert changed.billing_email == email
    assert (await admin.subscription()).tier == "starter"

    invited = await admin.invitations.create(f"grace.{email}")
    assert [row.email async for row in admin.invitations.list()] == [invited.email]
    user = (await grace.accept_invitation(invited.token, PASSWORD)).user
    assert user.role == "member"
    assert {row.email async for row in admin.users.list()} == {email, invited.email}
    assert (await admin.users.update(user.id, role="admin")).role == "admin"
    assert (await admin.users.update(user.id, disabled=True)).disabled
    assert (await admin.users.get(user.id)).role == "admin"
    with pytest.raises(Unauthenticated):
        await grace.me()
    await admin.users.delete(user.id)
    with pytest.raises(NotFound):
        await admin.users.get(user.id)
    again = await admin.invitations.create(f"grace.{email}", role="admin")
    await admin.invitations.revoke(again.id)
    assert [row async for row in admin.invitations.list()] == []
    await admin.close()
    await grace.close()


async def test_projects_and_their_keys(make: Callable[[], Any], site: Site, email: str) -> None:
    admin = make()
    await signed_up(admin, email)
    project = await admin.projects.create("shop", "Everything")
    assert (await admin.projects.update(project.id, description=None)).description is None
    assert (await admin.projects.get(project.id)).name == "shop"
    assert {row.name async for row in admin.projects.list()} == {"default", "shop"}
    assert not (await admin.projects.encryption(project.id)).encrypted
    assert (await admin.projects.encrypt(project.id)).encrypted
    assert len((await admin.projects.rotate_data_key(project.id)).data_keys) == 2

    made = await admin.api_keys.create(project.id, "web", ["queues:manage"])
    async with AsyncClient(site.url, made.key) as client:
        assert (await client.queues.create("mail")).name == "mail"
    changed = await admin.api_keys.update(project.id, made.id, permissions=["queues:read"])
    assert changed.permissions == ["queues:read"]
    newer = await admin.api_keys.rotate(project.id, made.id, overlap_s=60)
    assert {key.id async for key in admin.api_keys.list(project.id)} == {made.id, newer.id}
    assert (await admin.api_keys.revoke(project.id, made.id)).status == "revoked"
    assert (await admin.api_keys.get(project.id, made.id)).status == "revoked"
    await admin.api_keys.delete(project.id, made.id)
    with pytest.raises(NotFound):
        await admin.api_keys.get(project.id, made.id)

    client = await admin.client_for(project.id)
    assert [queue.name async for queue in client.queues.list()] == ["mail"]
    await client.queues.delete("mail")
    assert await names_of_queues(client) == []
    empty = await admin.projects.create("empty")
    await admin.projects.delete(empty.id)
    with pytest.raises(NotFound):
        await admin.client_for(empty.id)
    await client.close()
    await admin.close()


async def test_the_audit_log(make: Callable[[], Any], email: str) -> None:
    admin = make()
    session = await signed_up(admin, email)
    project = await admin.projects.create("shop")
    noted = await admin.audit.verify()
    assert noted.intact
    await admin.projects.delete(project.id)
    assert (await admin.audit.verify(noted.head)).intact
    assert not (await admin.audit.verify(noted.head.__class__(sequence=1, hash="0" * 64))).intact
    target = f"project:{project.id}"
    listed = [entry async for entry in admin.audit.list(target=target)]
    assert [entry.action for entry in listed] == ["project.delete", "project.create"]
    assert listed[0].actor.id == session.user.id
    exported = [entry async for entry in admin.audit.export()]
    assert [entry.sequence for entry in exported] == list(range(1, len(exported) + 1))
    assert exported[-1] == listed[0]
    assert [entry async for entry in admin.audit.export(exported[-2].sequence)] == [exported[-1]]
    await admin.close()


async def test_an_expired_session_is_refreshed_once_for_many_calls(
    make: Callable[[], Any], site: Site, email: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    admin = make()
    with monkeypatch.context() as patched:
        patched.setattr(limits, "ACCESS_TOKEN_S", -2 * limits.CLOCKS_APART_S)
        await signed_up(admin, email)
    refreshed = counted(site, monkeypatch)
    for _ in range(2):  # the second time nothing has expired
        found = await asyncio.gather(*(admin.me() for _ in range(20)))
        assert {me.user.email for me in found} == {email}
        assert refreshed == ["refresh"]
    await admin.close()


async def test_clients_of_projects_are_renewed_by_the_session(
    make: Callable[[], Any], site: Site, email: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    admin, grace = make(), make()
    project_id = (await signed_up(admin, email)).project_id
    invited = await admin.invitations.create(f"grace.{email}", role="admin")
    user = (await grace.accept_invitation(invited.token, PASSWORD)).user
    clients = [await grace.client_for(project_id) for _ in range(2)]
    refreshed = counted(site, monkeypatch)
    await admin.users.update(user.id, role="member")  # tokens of before are void
    calls = (names_of_queues(client) for client in clients * 5)
    assert await asyncio.gather(*calls) == [[]] * 10
    assert refreshed == ["refresh"]
    for client in (*clients, grace, admin):
        await client.close()


async def test_streams_are_taken_up_with_a_new_token(
    make: Callable[[], Any], site: Site, email: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    admin = make()
    with monkeypatch.context() as patched:
        patched.setattr(limits, "ACCESS_TOKEN_S", -2 * limits.CLOCKS_APART_S)
        await signed_up(admin, email)
    refreshed = counted(site, monkeypatch)
    assert [entry.sequence async for entry in admin.audit.export()] == [1]
    assert refreshed == ["refresh"]
    await admin.close()


async def test_a_session_that_is_over_is_not_refreshed_again(
    make: Callable[[], Any], site: Site, email: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    admin, other = make(), make()
    await signed_up(admin, email)
    await other.log_in(email, PASSWORD)
    await admin.change_password(PASSWORD, "another long sentence")
    refreshed = counted(site, monkeypatch)
    found = await asyncio.gather(*(other.me() for _ in range(5)), return_exceptions=True)
    assert [type(error) for error in found] == [Unauthenticated] * 5
    assert refreshed == ["refresh"]
    await other.log_in(email, "another long sentence")
    assert (await other.me()).user.email == email
    await admin.close()
    await other.close()


async def test_a_cancelled_call_does_not_lose_the_session(
    site: Site, email: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with AsyncAdminClient(site.url) as admin:
        with monkeypatch.context() as patched:
            patched.setattr(limits, "ACCESS_TOKEN_S", -2 * limits.CLOCKS_APART_S)
            await signed_up(admin, email)
        identity = site.api.identity
        assert identity is not None
        refresh, begun, held = identity.refresh, asyncio.Event(), asyncio.Event()

        async def slow(*args: Any) -> Any:
            begun.set()
            await held.wait()
            return await refresh(*args)

        monkeypatch.setattr(identity, "refresh", slow)
        call = asyncio.create_task(admin.me())
        await begun.wait()
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        held.set()
        assert (await admin.me()).user.email == email


async def names_of_queues(client: Any) -> list[str]:
    return [queue.name async for queue in client.queues.list()]


def counted(site: Site, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is filled with a word for each refresh."""
    identity, seen = site.api.identity, []
    assert identity is not None
    refresh = identity.refresh

    async def count(*args: Any) -> Any:
        seen.append("refresh")
        return await refresh(*args)

    monkeypatch.setattr(identity, "refresh", count)
    return seen


async def test_both_clients_have_the_same_methods() -> None:
    blocking, concurrent = AdminClient("http://host"), AsyncAdminClient("http://host")
    assert shape(blocking) == shape(concurrent)
    for group in GROUPS:
        assert shape(getattr(blocking, group)) == shape(getattr(concurrent, group))
    signature = inspect.signature(blocking.api_keys.create)
    assert [*signature.parameters] == ["project_id", "name", "permissions", "expires_at"]
    assert [*inspect.signature(concurrent.users.list).parameters] == []


def shape(client: object) -> dict[str, list[str]]:
    """Public methods with the names of their parameters."""
    return {
        name: [*inspect.signature(found).parameters]
        for name, found in inspect.getmembers(client, callable)
        if not name.startswith("_")
    }
