"""The routes of the audit log."""

from collections.abc import AsyncGenerator, Iterable
from typing import Annotated

from msgspec import Meta

from taskforge_server.api.rest.handlers import Services
from taskforge_server.api.rest.media import Coding
from taskforge_server.api.rest.routes import Call, Reply, Route, answer
from taskforge_server.api.rest.schemas import (
    Answer,
    AnyJson,
    PageQuery,
    Request,
    UuidText,
    encode_json,
)
from taskforge_server.api.rest.views import EMBED, Embed
from taskforge_server.engine import limits
from taskforge_server.engine.errors import InvalidInput
from taskforge_server.engine.model import permissions
from taskforge_server.engine.model.audit import (
    Action,
    ActorKind,
    AuditEntry,
    AuditHead,
    FaultKind,
    Target,
)
from taskforge_server.engine.model.base import Time
from taskforge_server.engine.store.audit import AuditFilter
from taskforge_server.ext.ids import uuid_bytes, uuid_text

NDJSON_TYPE = "application/x-ndjson"

HashText = Annotated[str, Meta(min_length=64, max_length=64, description="SHA-256, hexadecimal")]


class ActorView(Answer):
    """Who acted, from where."""

    kind: ActorKind
    id: Annotated[UuidText | None, Meta(description="of the API key or of the user")]
    address: str
    correlation_id: str


class AuditEntryView(Answer):
    """One act."""

    sequence: int
    at: Time
    actor: ActorView
    action: str
    target: str
    before: AnyJson
    after: AnyJson
    previous_hash: HashText
    hash: HashText


class AuditPage(Answer):
    """Acts, the newest first."""

    items: list[AuditEntryView]
    next_cursor: str | None


class HeadView(Answer):
    """The end of a log: note it elsewhere, and give it to a later verification."""

    sequence: int
    hash: HashText


class FaultView(Answer):
    """What is wrong, from which entry on."""

    kind: FaultKind
    sequence: int
    detail: str


class VerdictView(Answer):
    """Whether the log is whole."""

    intact: bool
    head: HeadView
    faults: list[FaultView]


class AuditQuery(PageQuery, kw_only=True):
    """Which acts."""

    action: Annotated[Action, Meta(examples=["queue.update"])] | None = None
    target: Annotated[Target, Meta(description="kind and id, as entries have it")] | None = None
    actor: Annotated[UuidText, Meta(description="id of an API key or a user")] | None = None


class ExportQuery(Request):
    """From where on."""

    after: Annotated[
        int,
        Meta(ge=0, le=limits.AUDIT_SEQUENCE_MAX, description="the last entry that is not wanted"),
    ] = 0


class VerifyQuery(Request):
    """What to compare with."""

    head: (
        Annotated[
            str,
            Meta(
                pattern=r"^[0-9]{1,18}:[0-9a-f]{64}\Z",
                description="sequence and hash of a head that was noted before",
            ),
        ]
        | None
    ) = None


async def list_acts(services: Services, call: Call) -> Reply:
    query: AuditQuery = call.query
    wanted = AuditFilter(_actor_id(query.actor), query.action, query.target)
    entries, cursor = await services.audit.page(
        call.principal.organization_id, wanted, query.cursor, query.limit
    )
    embed = EMBED[call.coding]
    items = [_view(entry, embed) for entry in entries]
    return answer(call, AuditPage(items=items, next_cursor=cursor))


async def export_acts(services: Services, call: Call) -> Reply:
    query: ExportQuery = call.query
    entries = services.audit.export(call.principal.organization_id, query.after)
    # The first piece is awaited here: a refusal still is an answer of its own.
    first: list[AuditEntry] = await anext(entries, [])
    return Reply(b"", content_type=NDJSON_TYPE, parts=_lines(first, entries))


async def verify_acts(services: Services, call: Call) -> Reply:
    query: VerifyQuery = call.query
    verdict = await services.audit.verify(call.principal.organization_id, noted_head(query.head))
    return answer(
        call,
        VerdictView(
            intact=verdict.is_intact,
            head=HeadView(sequence=verdict.head.sequence, hash=verdict.head.hash.hex()),
            faults=[
                FaultView(kind=fault.kind, sequence=fault.sequence, detail=fault.about)
                for fault in verdict.faults
            ],
        ),
    )


def noted_head(text: str | None) -> AuditHead | None:
    """A head as text: its sequence, a colon, its hash."""
    if text is None:
        return None
    sequence, _, digest = text.partition(":")
    return AuditHead(int(sequence), bytes.fromhex(digest))


async def _lines(
    first: list[AuditEntry], others: AsyncGenerator[list[AuditEntry], None]
) -> AsyncGenerator[bytes, None]:
    """Entries as they go out."""
    try:
        entries: list[AuditEntry] | None = first
        while entries:
            yield lines(entries)
            entries = await anext(others, None)
    finally:
        await others.aclose()


def lines(entries: Iterable[AuditEntry]) -> bytes:
    """Entries as JSON, one a line."""
    embed = EMBED[Coding.JSON]
    return b"".join(encode_json(_view(entry, embed)) + b"\n" for entry in entries)


def _actor_id(text: str | None) -> bytes | None:
    try:
        return None if text is None else uuid_bytes(text)
    except ValueError:
        raise InvalidInput("this is no id", "actor") from None


def _view(entry: AuditEntry, embed: Embed) -> AuditEntryView:
    return AuditEntryView(
        sequence=entry.sequence,
        at=entry.at,
        actor=ActorView(
            kind=entry.actor_kind,
            id=None if entry.actor_id is None else uuid_text(entry.actor_id),
            address=entry.address,
            correlation_id=entry.correlation_id,
        ),
        action=entry.action,
        target=entry.target,
        before=embed(None if entry.before is None else entry.before.encode()),
        after=embed(None if entry.after is None else entry.after.encode()),
        previous_hash=entry.previous_hash.hex(),
        hash=entry.hash.hex(),
    )


ROUTES = (
    Route(
        method="GET",
        path="/v1/audit",
        operation_id="listAudit",
        summary="List administrative acts, the newest first",
        tag="audit",
        permission=permissions.AUDIT_READ,
        handler=list_acts,
        query=AuditQuery,
        reply=AuditPage,
    ),
    Route(
        method="GET",
        path="/v1/audit/export",
        operation_id="exportAudit",
        summary="All acts in their order, one JSON object a line",
        tag="audit",
        permission=permissions.AUDIT_READ,
        handler=export_acts,
        query=ExportQuery,
        reply_type=NDJSON_TYPE,
        problems=("overloaded",),
    ),
    Route(
        method="GET",
        path="/v1/audit/verify",
        operation_id="verifyAudit",
        summary="Check every link of the audit log",
        tag="audit",
        permission=permissions.AUDIT_READ,
        handler=verify_acts,
        query=VerifyQuery,
        reply=VerdictView,
        problems=("overloaded",),
    ),
)
