"""Clients for people: organisations, projects, API keys, the audit log."""

from taskforge.admin.asynchronous import AsyncAdminClient
from taskforge.admin.blocking import AdminClient
from taskforge.admin.models import (
    ApiKey,
    AuditEntry,
    AuditHead,
    AuditVerdict,
    Encryption,
    Invitation,
    Invited,
    Me,
    NewApiKey,
    Organization,
    Project,
    Session,
    Subscription,
    User,
)

__all__ = [
    "AdminClient",
    "ApiKey",
    "AsyncAdminClient",
    "AuditEntry",
    "AuditHead",
    "AuditVerdict",
    "Encryption",
    "Invitation",
    "Invited",
    "Me",
    "NewApiKey",
    "Organization",
    "Project",
    "Session",
    "Subscription",
    "User",
]
