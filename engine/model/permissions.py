"""What a credential may be allowed to do, and which role of a person allows it: the one table.

A permission belongs to a scope. Those of a project are held by API keys, and by people in a session
that they opened for one project; those of an organisation only by people:

    API key of a project         ──► the project permissions that it was given
    person, session              ──► the organisation permissions of the role
    person, session of a project ──► these, and the project permissions of the role

Routes name the permission that they need, the OpenAPI document and `docs/reference/permissions.md`
are made of this table, and tests walk it.
"""

from dataclasses import dataclass
from typing import Final, Literal

Scope = Literal["organization", "project"]
Role = Literal["admin", "member"]

EVERYBODY: Final[frozenset[Role]] = frozenset({"admin", "member"})
ADMINS: Final[frozenset[Role]] = frozenset({"admin"})


@dataclass(frozen=True, slots=True)
class Permission:
    """One thing that may be allowed: its name, where it counts, and whose role has it."""

    name: str
    scope: Scope
    roles: frozenset[Role]
    about: str


ORGANIZATION_READ: Final = "organization:read"
ORGANIZATION_MANAGE: Final = "organization:manage"
USERS_READ: Final = "users:read"
USERS_MANAGE: Final = "users:manage"
PROJECTS_READ: Final = "projects:read"
PROJECTS_MANAGE: Final = "projects:manage"
API_KEYS_READ: Final = "api_keys:read"
API_KEYS_MANAGE: Final = "api_keys:manage"
AUDIT_READ: Final = "audit:read"
ACCOUNT: Final = "account"

QUEUES_READ: Final = "queues:read"
QUEUES_MANAGE: Final = "queues:manage"
JOBS_READ: Final = "jobs:read"
JOBS_WRITE: Final = "jobs:write"
JOBS_CANCEL: Final = "jobs:cancel"
SCHEDULES_READ: Final = "schedules:read"
SCHEDULES_MANAGE: Final = "schedules:manage"
WORKERS_CONNECT: Final = "workers:connect"
WORKERS_READ: Final = "workers:read"
WORKERS_MANAGE: Final = "workers:manage"
METRICS_READ: Final = "metrics:read"

PERMISSIONS: Final[dict[str, Permission]] = {
    row.name: row
    for row in (
        Permission(
            ACCOUNT,
            "organization",
            EVERYBODY,
            "See oneself, change one's password, open a project, log out",
        ),
        Permission(
            ORGANIZATION_READ, "organization", EVERYBODY, "See the organisation and its limits"
        ),
        Permission(ORGANIZATION_MANAGE, "organization", ADMINS, "Change the organisation"),
        Permission(USERS_READ, "organization", EVERYBODY, "See who belongs to the organisation"),
        Permission(
            USERS_MANAGE,
            "organization",
            ADMINS,
            "Invite people, change roles, disable and remove people",
        ),
        Permission(PROJECTS_READ, "organization", EVERYBODY, "See projects"),
        Permission(
            PROJECTS_MANAGE, "organization", ADMINS, "Make, change, encrypt and delete projects"
        ),
        Permission(API_KEYS_READ, "organization", EVERYBODY, "See API keys, never their text"),
        Permission(API_KEYS_MANAGE, "organization", ADMINS, "Make, change and end API keys"),
        Permission(AUDIT_READ, "organization", ADMINS, "Read, export and verify the audit log"),
        Permission(QUEUES_READ, "project", EVERYBODY, "See queues"),
        Permission(
            QUEUES_MANAGE,
            "project",
            ADMINS,
            "Make, change, pause and delete queues, delete dead letters",
        ),
        Permission(
            JOBS_READ, "project", EVERYBODY, "See jobs, their executions, logs, events and results"
        ),
        Permission(JOBS_WRITE, "project", EVERYBODY, "Submit jobs, and change those that wait"),
        Permission(JOBS_CANCEL, "project", EVERYBODY, "Cancel jobs, and let them run again"),
        Permission(SCHEDULES_READ, "project", EVERYBODY, "See schedules, with what their jobs get"),
        Permission(
            SCHEDULES_MANAGE,
            "project",
            ADMINS,
            "Make, change, pause, run and delete schedules",
        ),
        Permission(WORKERS_CONNECT, "project", frozenset(), "Be a worker: for API keys only"),
        Permission(WORKERS_READ, "project", EVERYBODY, "See workers and their assignments"),
        Permission(WORKERS_MANAGE, "project", ADMINS, "Drain, assign and forget workers"),
        Permission(METRICS_READ, "project", EVERYBODY, "Read the figures of the project"),
    )
}

PROJECT_PERMISSIONS: Final = frozenset(
    row.name for row in PERMISSIONS.values() if row.scope == "project"
)


def of_role(role: Role, *, in_project: bool) -> frozenset[str]:
    """What a person of this role may do, in a session with or without a project."""
    return frozenset(
        row.name
        for row in PERMISSIONS.values()
        if role in row.roles and (in_project or row.scope == "organization")
    )
