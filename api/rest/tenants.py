"""The routes of organisation, projects and API keys."""

from typing import Any

import msgspec

from taskforge_server.api.rest.bodies import decode
from taskforge_server.api.rest.handlers import Services, given_fields
from taskforge_server.api.rest.routes import Call, Reply, Route, answer
from taskforge_server.api.rest.schemas import PageQuery
from taskforge_server.api.rest.tenants_schemas import (
    ApiKeyCreate,
    ApiKeyMade,
    ApiKeyPage,
    ApiKeyRotate,
    ApiKeyUpdate,
    ApiKeyView,
    OrganizationUpdate,
    OrganizationView,
    ProjectCreate,
    ProjectPage,
    ProjectUpdate,
    ProjectView,
)
from taskforge_server.engine.errors import NotFound
from taskforge_server.engine.model import permissions
from taskforge_server.engine.model.tenant import ApiKey, Organization, Project
from taskforge_server.ext.ids import uuid_bytes, uuid_text

NO_CONTENT = 204


async def get_organization(services: Services, call: Call) -> Reply:
    row = await services.tenants.organizations.get(call.principal.organization_id)
    return answer(call, _organization(row))


async def update_organization(services: Services, call: Call) -> Reply:
    given = decode(call.body, call.body_coding, OrganizationUpdate)
    row = await services.tenants.update_organization(
        call.principal.organization_id, given_fields(given), call.actor
    )
    return answer(call, _organization(row))


async def create_project(services: Services, call: Call) -> Reply:
    given = decode(call.body, call.body_coding, ProjectCreate)
    row = await services.tenants.projects.create(
        call.principal.organization_id, given.name, given.description, call.actor
    )
    return answer(call, _project(row))


async def list_projects(services: Services, call: Call) -> Reply:
    query: PageQuery = call.query
    rows, cursor = await services.tenants.projects.page(
        call.principal.organization_id, query.cursor, query.limit
    )
    return answer(call, ProjectPage(items=[_project(row) for row in rows], next_cursor=cursor))


async def get_project(services: Services, call: Call) -> Reply:
    return answer(call, _project(await services.tenants.projects.find(*_project_ids(call))))


async def update_project(services: Services, call: Call) -> Reply:
    given = decode(call.body, call.body_coding, ProjectUpdate)
    row = await services.tenants.update_project(
        *_project_ids(call), given_fields(given), call.actor
    )
    return answer(call, _project(row))


async def delete_project(services: Services, call: Call) -> Reply:
    await services.tenants.delete_project(*_project_ids(call), call.actor)
    return Reply(b"", NO_CONTENT)


async def create_api_key(services: Services, call: Call) -> Reply:
    given = decode(call.body, call.body_coding, ApiKeyCreate)
    key, text = await services.tenants.create_key(
        *_project_ids(call), given.name, given.permissions, given.expires_at, call.actor
    )
    return answer(call, ApiKeyMade(**_key_fields(services, key), key=text))


async def list_api_keys(services: Services, call: Call) -> Reply:
    query: PageQuery = call.query
    rows, cursor = await services.tenants.api_keys.page(
        *_project_ids(call), query.cursor, query.limit
    )
    items = [ApiKeyView(**_key_fields(services, row)) for row in rows]
    return answer(call, ApiKeyPage(items=items, next_cursor=cursor))


async def get_api_key(services: Services, call: Call) -> Reply:
    key = await services.tenants.api_keys.get(*_project_ids(call), _key_id(call))
    return answer(call, ApiKeyView(**_key_fields(services, key)))


async def update_api_key(services: Services, call: Call) -> Reply:
    given = decode(call.body, call.body_coding, ApiKeyUpdate)
    key = await services.tenants.update_key(
        *_project_ids(call), _key_id(call), given_fields(given), call.actor
    )
    return answer(call, ApiKeyView(**_key_fields(services, key)))


async def rotate_api_key(services: Services, call: Call) -> Reply:
    given = decode(call.body, call.body_coding, ApiKeyRotate)
    key, text = await services.tenants.rotate_key(
        *_project_ids(call), _key_id(call), given.overlap_s, call.actor
    )
    return answer(call, ApiKeyMade(**_key_fields(services, key), key=text))


async def revoke_api_key(services: Services, call: Call) -> Reply:
    key = await services.tenants.revoke_key(*_project_ids(call), _key_id(call), call.actor)
    return answer(call, ApiKeyView(**_key_fields(services, key)))


async def delete_api_key(services: Services, call: Call) -> Reply:
    await services.tenants.delete_key(*_project_ids(call), _key_id(call), call.actor)
    return Reply(b"", NO_CONTENT)


def _project_ids(call: Call) -> tuple[bytes, bytes]:
    """The caller's organisation, and the project that the path names: if it is another's, then for
    this organisation there is none."""
    try:
        return call.principal.organization_id, uuid_bytes(call.params["project_id"])
    except ValueError:
        raise NotFound("no such project", "project_id", code="project_not_found") from None


def _key_id(call: Call) -> bytes:
    try:
        return uuid_bytes(call.params["api_key_id"])
    except ValueError:
        raise NotFound("no such API key", "api_key_id", code="api_key_not_found") from None


def _organization(row: Organization) -> OrganizationView:
    return OrganizationView(
        id=uuid_text(row.id),
        name=row.name,
        billing_email=row.billing_email,
        created_at=row.created_at,
    )


def _project(row: Project) -> ProjectView:
    return ProjectView(
        id=uuid_text(row.id),
        name=row.name,
        description=row.description,
        created_at=row.created_at,
    )


def _key_fields(services: Services, key: ApiKey) -> dict[str, Any]:
    fields = msgspec.structs.asdict(key)
    del fields["key_hash"]
    status = "live" if key.is_live(services.tenants.now()) else "expired"
    return fields | {
        "id": uuid_text(key.id),
        "project_id": uuid_text(key.project_id),
        "status": "revoked" if key.revoked_at is not None else status,
    }


ROUTES = (
    Route(
        method="GET",
        path="/v1/organization",
        operation_id="getOrganization",
        summary="Look at one's organisation",
        tag="organization",
        permission=permissions.ORGANIZATION_READ,
        handler=get_organization,
        reply=OrganizationView,
        problems=("organization_not_found",),
    ),
    Route(
        method="PATCH",
        path="/v1/organization",
        operation_id="updateOrganization",
        summary="Change one's organisation; what is not given stays",
        tag="organization",
        permission=permissions.ORGANIZATION_MANAGE,
        handler=update_organization,
        body=OrganizationUpdate,
        reply=OrganizationView,
        problems=("organization_not_found",),
        example={"billing_email": "billing@example.com"},
    ),
    Route(
        method="POST",
        path="/v1/projects",
        operation_id="createProject",
        summary="Make a project",
        tag="projects",
        permission=permissions.PROJECTS_MANAGE,
        handler=create_project,
        status=201,
        body=ProjectCreate,
        reply=ProjectView,
        problems=("too_many_projects",),
        example={"name": "shop", "description": "Everything that the shop does in the background"},
    ),
    Route(
        method="GET",
        path="/v1/projects",
        operation_id="listProjects",
        summary="List the projects of the organisation",
        tag="projects",
        permission=permissions.PROJECTS_READ,
        handler=list_projects,
        query=PageQuery,
        reply=ProjectPage,
    ),
    Route(
        method="GET",
        path="/v1/projects/{project_id}",
        operation_id="getProject",
        summary="Look at a project",
        tag="projects",
        permission=permissions.PROJECTS_READ,
        handler=get_project,
        reply=ProjectView,
        problems=("project_not_found",),
    ),
    Route(
        method="PATCH",
        path="/v1/projects/{project_id}",
        operation_id="updateProject",
        summary="Change a project; what is not given stays",
        tag="projects",
        permission=permissions.PROJECTS_MANAGE,
        handler=update_project,
        body=ProjectUpdate,
        reply=ProjectView,
        problems=("project_not_found",),
        example={"description": None},
    ),
    Route(
        method="DELETE",
        path="/v1/projects/{project_id}",
        operation_id="deleteProject",
        summary="Delete a project that has no queues; its API keys end with it",
        tag="projects",
        permission=permissions.PROJECTS_MANAGE,
        handler=delete_project,
        status=NO_CONTENT,
        problems=("project_not_found", "project_not_empty"),
    ),
    Route(
        method="POST",
        path="/v1/projects/{project_id}/api-keys",
        operation_id="createApiKey",
        summary="Make an API key; its text is in the answer, and nowhere else",
        tag="api keys",
        permission=permissions.API_KEYS_MANAGE,
        handler=create_api_key,
        status=201,
        body=ApiKeyCreate,
        reply=ApiKeyMade,
        problems=("project_not_found", "too_many_api_keys"),
        example={"name": "web server", "permissions": ["jobs:write", "jobs:read"]},
    ),
    Route(
        method="GET",
        path="/v1/projects/{project_id}/api-keys",
        operation_id="listApiKeys",
        summary="List the API keys of a project",
        tag="api keys",
        permission=permissions.API_KEYS_READ,
        handler=list_api_keys,
        query=PageQuery,
        reply=ApiKeyPage,
        problems=("project_not_found",),
    ),
    Route(
        method="GET",
        path="/v1/projects/{project_id}/api-keys/{api_key_id}",
        operation_id="getApiKey",
        summary="Look at an API key",
        tag="api keys",
        permission=permissions.API_KEYS_READ,
        handler=get_api_key,
        reply=ApiKeyView,
        problems=("project_not_found", "api_key_not_found"),
    ),
    Route(
        method="PATCH",
        path="/v1/projects/{project_id}/api-keys/{api_key_id}",
        operation_id="updateApiKey",
        summary="Change name, permissions or expiry of an API key; what is not given stays",
        tag="api keys",
        permission=permissions.API_KEYS_MANAGE,
        handler=update_api_key,
        body=ApiKeyUpdate,
        reply=ApiKeyView,
        problems=("project_not_found", "api_key_not_found", "api_key_revoked"),
        example={"permissions": ["jobs:read"]},
    ),
    Route(
        method="POST",
        path="/v1/projects/{project_id}/api-keys/{api_key_id}/rotate",
        operation_id="rotateApiKey",
        summary="Make a successor of an API key; the old one ends after the overlap",
        tag="api keys",
        permission=permissions.API_KEYS_MANAGE,
        handler=rotate_api_key,
        status=201,
        body=ApiKeyRotate,
        reply=ApiKeyMade,
        problems=(
            "project_not_found",
            "api_key_not_found",
            "api_key_revoked",
            "too_many_api_keys",
        ),
        example={"overlap_s": 3600},
    ),
    Route(
        method="POST",
        path="/v1/projects/{project_id}/api-keys/{api_key_id}/revoke",
        operation_id="revokeApiKey",
        summary="Revoke an API key for good: within a second no node takes it",
        tag="api keys",
        permission=permissions.API_KEYS_MANAGE,
        handler=revoke_api_key,
        reply=ApiKeyView,
        problems=("project_not_found", "api_key_not_found"),
    ),
    Route(
        method="DELETE",
        path="/v1/projects/{project_id}/api-keys/{api_key_id}",
        operation_id="deleteApiKey",
        summary="Delete an API key, live or not",
        tag="api keys",
        permission=permissions.API_KEYS_MANAGE,
        handler=delete_api_key,
        status=NO_CONTENT,
        problems=("project_not_found", "api_key_not_found"),
    ),
)
