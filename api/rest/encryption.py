"""The routes of encryption at rest: whether a project is encrypted, and its data keys."""

from typing import Annotated

from msgspec import Meta

from taskforge_server.api.rest.bodies import decode
from taskforge_server.api.rest.handlers import Services
from taskforge_server.api.rest.routes import Call, Reply, Route, answer
from taskforge_server.api.rest.schemas import Answer, Request
from taskforge_server.api.service.encryption import EncryptionService
from taskforge_server.engine.errors import NotFound
from taskforge_server.engine.model import permissions
from taskforge_server.engine.model.base import Time
from taskforge_server.engine.store.project_keys import Encryption
from taskforge_server.ext.ids import uuid_bytes


class EncryptionUpdate(Request):
    """Whether what comes in is sealed from now on."""

    encrypted: bool


class DataKeyView(Answer):
    """A data key of a project; the key itself is never shown."""

    number: Annotated[int, Meta(description="the greatest one seals; the others still open")]
    created_at: Time


class EncryptionView(Answer):
    """How payloads, results, errors and log lines of a project are stored."""

    encrypted: bool
    data_keys: Annotated[list[DataKeyView], Meta(description="the newest first")]


async def get_encryption(services: Services, call: Call) -> Reply:
    return answer(call, _view(await _service(services).get(*_project_ids(call))))


async def update_encryption(services: Services, call: Call) -> Reply:
    given = decode(call.body, call.body_coding, EncryptionUpdate)
    state = await _service(services).switch(*_project_ids(call), given.encrypted, call.actor)
    return answer(call, _view(state))


async def rotate_data_key(services: Services, call: Call) -> Reply:
    return answer(call, _view(await _service(services).rotate(*_project_ids(call), call.actor)))


def _service(services: Services) -> EncryptionService:
    if services.encryption is None:
        raise _not_found()
    return services.encryption


def _project_ids(call: Call) -> tuple[bytes, bytes]:
    """The caller's organisation, and the project that the path names: another's is not there."""
    try:
        return call.principal.organization_id, uuid_bytes(call.params["project_id"])
    except ValueError:
        raise _not_found() from None


def _not_found() -> NotFound:
    return NotFound("no such project", "project_id", code="project_not_found")


def _view(state: Encryption) -> EncryptionView:
    keys = [DataKeyView(number=key.number, created_at=key.created_at) for key in state.keys]
    return EncryptionView(encrypted=state.encrypted, data_keys=keys)


PATH = "/v1/projects/{project_id}/encryption"

ROUTES = (
    Route(
        method="GET",
        path=PATH,
        operation_id="getEncryption",
        summary="Whether a project is encrypted at rest, and since when it has which data keys",
        tag="encryption",
        permission=permissions.PROJECTS_READ,
        handler=get_encryption,
        reply=EncryptionView,
        problems=("project_not_found",),
    ),
    Route(
        method="PATCH",
        path=PATH,
        operation_id="updateEncryption",
        summary="Encrypt what comes in from now on, or no longer; what is stored stays readable",
        tag="encryption",
        permission=permissions.PROJECTS_MANAGE,
        handler=update_encryption,
        body=EncryptionUpdate,
        reply=EncryptionView,
        problems=("project_not_found",),
        example={"encrypted": True},
    ),
    Route(
        method="POST",
        path=PATH + "/rotate",
        operation_id="rotateDataKey",
        summary="Seal with a new data key from now on; the earlier ones still open",
        tag="encryption",
        permission=permissions.PROJECTS_MANAGE,
        handler=rotate_data_key,
        reply=EncryptionView,
        problems=("project_not_found", "not_encrypted", "too_many_keys"),
    ),
)
