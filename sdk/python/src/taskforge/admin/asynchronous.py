"""The async client for people. It belongs to the event loop in which it is first used."""

from collections.abc import AsyncGenerator
from functools import partial

from taskforge import settings
from taskforge.admin import calls
from taskforge.admin.models import AuditEntry, Opened, Session, Tokens
from taskforge.client.async_caller import AsyncCaller
from taskforge.client.asynchronous import AsyncClient
from taskforge.client.calls import Call
from taskforge.client.methods import AsyncGroup, async_listing, async_method
from taskforge.errors import Unauthenticated
from taskforge.limits import REQUEST_TIMEOUT_S, RETRIES_DEFAULT


class AsyncAdminClient(AsyncCaller):
    """What people do with an organisation: begin with `sign_up`, `log_in` or `accept_invitation`.

    `url` and `ca_file` are those of `AsyncClient`. It keeps the tokens of its session and refreshes
    them when the server no longer takes them. A session belongs to one client of one process: log
    in again in another one. Refusals that say "later" and broken connections are tried again where
    that does no harm.
    """

    def __init__(
        self,
        url: str | None = None,
        *,
        retries: int = RETRIES_DEFAULT,
        timeout_s: float = REQUEST_TIMEOUT_S,
        ca_file: str | None = None,
    ) -> None:
        super().__init__(settings.address(url, ca_file), retries, timeout_s)
        self._ca_file = ca_file
        self._nobody = self._requests
        self._refresh_token = ""
        self.users = AsyncUsers(self)
        self.invitations = AsyncInvitations(self)
        self.projects = AsyncProjects(self)
        self.api_keys = AsyncApiKeys(self)
        self.audit = AsyncAudit(self)

    async def sign_up(self, organization: str, email: str, password: str) -> Session:
        """Make an organisation with its first admin, who is logged in, and its first project."""
        return await self._begin(calls.sign_up(organization, email, password))

    async def log_in(self, email: str, password: str) -> Session:
        """Begin a session; Unauthenticated."""
        return await self._begin(calls.log_in(email, password))

    async def accept_invitation(self, token: str, password: str) -> Session:
        """Join the organisation that invites, with a password of one's choice; logged in then."""
        return await self._begin(calls.accept_invitation(token, password))

    async def log_out(self) -> None:
        """End the session with all of its tokens, those of `client_for` too."""
        await self.execute(calls.log_out())
        self._forget()

    async def change_password(self, current: str, new: str) -> None:
        """All other sessions end. While this runs, nothing else may use the client."""
        self._take(await self.execute(calls.change_password(current, new)))

    async def client_for(self, project_id: str) -> AsyncClient:
        """A client for a project, with what the person may do there. It lives as long as the
        session of this client, which must stay open."""
        return _ProjectClient(self, project_id, await self.project_token(project_id))

    me = async_method(calls.me)
    organization = async_method(calls.organization)
    update_organization = async_method(calls.update_organization)
    subscription = async_method(calls.subscription)

    async def project_token(self, project_id: str) -> str:
        """An access token of the session, for a project; NotFound."""
        return (await self.execute(calls.open_project(project_id))).access_token

    async def _begin(self, call: Call[Opened]) -> Session:
        opened = call.read(await self._send(call, self._nobody))
        self._take(opened)
        return calls.session_of(opened)

    def _take(self, tokens: Tokens) -> None:
        self._refresh_token = tokens.refresh_token or self._refresh_token
        self._use(tokens.access_token)
        self._new_token = self._refreshed

    async def _refreshed(self) -> str:
        call = calls.refresh(self._refresh_token)
        try:
            tokens = call.read(await self._send(call, self._nobody))
        except Unauthenticated:
            self._forget()
            raise
        self._refresh_token = tokens.refresh_token or self._refresh_token
        return tokens.access_token

    def _forget(self) -> None:
        self._new_token = None
        self._refresh_token = ""
        self._requests = self._nobody


class _ProjectClient(AsyncClient):
    """A client with a session instead of an API key."""

    def __init__(self, admin: AsyncAdminClient, project_id: str, token: str) -> None:
        super().__init__(
            admin._server.url(""),
            token,
            retries=admin._retries,
            timeout_s=admin._timeout_s,
            ca_file=admin._ca_file,
        )
        self._new_token = partial(admin.project_token, project_id)


class AsyncUsers(AsyncGroup):
    """The people of the organisation."""

    list = async_listing(calls.list_users)
    get = async_method(calls.get_user)
    update = async_method(calls.update_user)
    delete = async_method(calls.delete_user)


class AsyncInvitations(AsyncGroup):
    """Who is asked to join."""

    create = async_method(calls.invite)
    list = async_listing(calls.list_invitations)
    revoke = async_method(calls.revoke_invitation)


class AsyncProjects(AsyncGroup):
    """The projects of the organisation."""

    create = async_method(calls.create_project)
    list = async_listing(calls.list_projects)
    get = async_method(calls.get_project)
    update = async_method(calls.update_project)
    delete = async_method(calls.delete_project)
    encryption = async_method(calls.encryption)
    encrypt = async_method(calls.encrypt)
    rotate_data_key = async_method(calls.rotate_data_key)


class AsyncApiKeys(AsyncGroup):
    """The API keys of projects."""

    create = async_method(calls.create_key)
    list = async_listing(calls.list_keys)
    get = async_method(calls.get_key)
    update = async_method(calls.update_key)
    rotate = async_method(calls.rotate_key)
    revoke = async_method(calls.revoke_key)
    delete = async_method(calls.delete_key)


class AsyncAudit(AsyncGroup):
    """Who did what."""

    def __init__(self, client: AsyncCaller) -> None:
        super().__init__(client)
        self._resumed = client.resumed

    list = async_listing(calls.list_audit)
    verify = async_method(calls.verify_audit)

    def export(self, after: int = 0) -> AsyncGenerator[AuditEntry, None]:
        """All acts in their order, behind the one with this sequence, as they come."""
        return self._resumed(calls.Export(after))
