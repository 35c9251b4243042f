"""A new organisation, with all that it needs to begin: its first admin, its first project
and the smallest subscription."""

from dataclasses import dataclass

from taskforge_server.engine.errors import Conflict
from taskforge_server.engine.model.audit import Actor
from taskforge_server.engine.model.identity import RefreshToken
from taskforge_server.engine.model.tenant import Organization, Project, SubscriptionTier, User
from taskforge_server.engine.store.audit import record
from taskforge_server.engine.store.invitations import create_invitation
from taskforge_server.engine.store.pool import Lent, Pool, acquire
from taskforge_server.engine.store.sessions import open_session
from taskforge_server.engine.store.statements import sql
from taskforge_server.engine.store.subscriptions import create_subscription
from taskforge_server.engine.store.tenants import create_organization, create_project
from taskforge_server.engine.store.users import create_user
from taskforge_server.ext.ids import uuid_text

FIRST_PROJECT = "default"
FIRST_TIER: SubscriptionTier = "starter"


@dataclass(frozen=True, slots=True)
class SignedUp:
    """What a sign-up has made."""

    organization: Organization
    user: User
    project: Project


class SignUps:
    """Makes organisations."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def create(
        self, name: str, email: str, password_hash: str, session: RefreshToken, actor: Actor
    ) -> SignedUp:
        """All of it or nothing; `Conflict` when the address is taken."""
        async with acquire(self._pool) as connection, connection.transaction():
            organization, project = await _begin(connection, name, email)
            user = await create_user(connection, organization.id, email, password_hash, "admin")
            await open_session(connection, user, session)
            by = Actor("user", user.id, actor.address, actor.correlation_id)
            await _recorded(connection, by, "organization.sign_up", organization)
        return SignedUp(organization, user, project)

    async def invite(
        self, name: str, email: str, token_hash: bytes, actor: Actor
    ) -> tuple[Organization, Project]:
        """The same for somebody who is still to choose a password, and is invited as its admin;
        `Conflict` when the address is taken."""
        async with acquire(self._pool) as connection, connection.transaction():
            if await connection.fetchrow(sql("user_by_email"), email) is not None:
                raise Conflict("there is an account with this address", "email", "email_taken")
            organization, project = await _begin(connection, name, email)
            await _recorded(connection, actor, "organization.create", organization)
            await create_invitation(connection, organization.id, email, "admin", token_hash, actor)
        return organization, project


async def _begin(connection: Lent, name: str, email: str) -> tuple[Organization, Project]:
    organization = await create_organization(connection, name, email)
    await create_subscription(connection, organization.id, FIRST_TIER)
    return organization, await create_project(connection, organization.id, FIRST_PROJECT)


async def _recorded(
    connection: Lent, actor: Actor, action: str, organization: Organization
) -> None:
    target = f"organization:{uuid_text(organization.id)}"
    after = {"name": organization.name, "billing_email": organization.billing_email}
    await record(connection, organization.id, actor, action, target, None, after)
