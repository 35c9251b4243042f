"""The blocking client for people. Threads may share one."""

from collections.abc import Iterator
from functools import partial

from taskforge import settings
from taskforge.admin import calls
from taskforge.admin.models import AuditEntry, Opened, Session, Tokens
from taskforge.client.blocking import Client
from taskforge.client.blocking_caller import Caller
from taskforge.client.calls import Call
from taskforge.client.methods import Group, listing, method
from taskforge.errors import Unauthenticated
from taskforge.limits import REQUEST_TIMEOUT_S, RETRIES_DEFAULT


class AdminClient(Caller):
    """What people do with an organisation: begin with `sign_up`, `log_in` or `accept_invitation`.

    `url` and `ca_file` are those of `Client`. It keeps the tokens of its session and refreshes them
    when the server no longer takes them. A session belongs to one client of one process: log in
    again in another one. Refusals that say "later" and broken connections are tried again where
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
        self.users = Users(self)
        self.invitations = Invitations(self)
        self.projects = Projects(self)
        self.api_keys = ApiKeys(self)
        self.audit = Audit(self)

    def sign_up(self, organization: str, email: str, password: str) -> Session:
        """Make an organisation with its first admin, who is logged in, and its first project."""
        return self._begin(calls.sign_up(organization, email, password))

    def log_in(self, email: str, password: str) -> Session:
        """Begin a session; Unauthenticated."""
        return self._begin(calls.log_in(email, password))

    def accept_invitation(self, token: str, password: str) -> Session:
        """Join the organisation that invites, with a password of one's choice; logged in then."""
        return self._begin(calls.accept_invitation(token, password))

    def log_out(self) -> None:
        """End the session with all of its tokens, those of `client_for` too."""
        self.execute(calls.log_out())
        self._forget()

    def change_password(self, current: str, new: str) -> None:
        """All other sessions end. While this runs, nothing else may use the client."""
        self._take(self.execute(calls.change_password(current, new)))

    def client_for(self, project_id: str) -> Client:
        """A client for a project, with what the person may do there. It lives as long as the
        session of this client, which must stay open."""
        return _ProjectClient(self, project_id)

    me = method(calls.me)
    organization = method(calls.organization)
    update_organization = method(calls.update_organization)
    subscription = method(calls.subscription)

    def project_token(self, project_id: str) -> str:
        """An access token of the session, for a project; NotFound."""
        return self.execute(calls.open_project(project_id)).access_token

    def _begin(self, call: Call[Opened]) -> Session:
        opened = call.read(self._send(call, self._nobody))
        self._take(opened)
        return calls.session_of(opened)

    def _take(self, tokens: Tokens) -> None:
        self._refresh_token = tokens.refresh_token or self._refresh_token
        self._use(tokens.access_token)
        self._new_token = self._refreshed

    def _refreshed(self) -> str:
        call = calls.refresh(self._refresh_token)
        try:
            tokens = call.read(self._send(call, self._nobody))
        except Unauthenticated:
            self._forget()
            raise
        self._refresh_token = tokens.refresh_token or self._refresh_token
        return tokens.access_token

    def _forget(self) -> None:
        self._new_token = None
        self._refresh_token = ""
        self._requests = self._nobody


class _ProjectClient(Client):
    """A client with a session instead of an API key."""

    def __init__(self, admin: AdminClient, project_id: str) -> None:
        new_token = partial(admin.project_token, project_id)
        super().__init__(
            admin._server.url(""),
            new_token(),
            retries=admin._retries,
            timeout_s=admin._timeout_s,
            ca_file=admin._ca_file,
        )
        self._new_token = new_token


class Users(Group):
    """The people of the organisation."""

    list = listing(calls.list_users)
    get = method(calls.get_user)
    update = method(calls.update_user)
    delete = method(calls.delete_user)


class Invitations(Group):
    """Who is asked to join."""

    create = method(calls.invite)
    list = listing(calls.list_invitations)
    revoke = method(calls.revoke_invitation)


class Projects(Group):
    """The projects of the organisation."""

    create = method(calls.create_project)
    list = listing(calls.list_projects)
    get = method(calls.get_project)
    update = method(calls.update_project)
    delete = method(calls.delete_project)
    encryption = method(calls.encryption)
    encrypt = method(calls.encrypt)
    rotate_data_key = method(calls.rotate_data_key)


class ApiKeys(Group):
    """The API keys of projects."""

    create = method(calls.create_key)
    list = listing(calls.list_keys)
    get = method(calls.get_key)
    update = method(calls.update_key)
    rotate = method(calls.rotate_key)
    revoke = method(calls.revoke_key)
    delete = method(calls.delete_key)


class Audit(Group):
    """Who did what."""

    def __init__(self, client: Caller) -> None:
        super().__init__(client)
        self._resumed = client.resumed

    list = listing(calls.list_audit)
    verify = method(calls.verify_audit)

    def export(self, after: int = 0) -> Iterator[AuditEntry]:
        """All acts in their order, behind the one with this sequence, as they come."""
        return self._resumed(calls.Export(after))
