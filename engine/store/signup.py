"""A new organisation, with all that it needs to begin: its first admin, its first project
and the smallest subscription."""

from dataclasses import dataclass

from taskforge_server.engine.model.audit import Actor
from taskforge_server.engine.model.identity import RefreshToken
from taskforge_server.engine.model.tenant import Organization, Project, SubscriptionTier, User
from taskforge_server.engine.store.audit import record
from taskforge_server.engine.store.pool import Pool, acquire
from taskforge_server.engine.store.sessions import open_session
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
            organization = await create_organization(connection, name, email)
            await create_subscription(connection, organization.id, FIRST_TIER)
            user = await create_user(connection, organization.id, email, password_hash, "admin")
            project = await create_project(connection, organization.id, FIRST_PROJECT)
            await open_session(connection, user, session)
            by = Actor("user", user.id, actor.address, actor.correlation_id)
            target = f"organization:{uuid_text(organization.id)}"
            after = {"name": name, "billing_email": email}
            await record(
                connection, organization.id, by, "organization.sign_up", target, None, after
            )
        return SignedUp(organization, user, project)
