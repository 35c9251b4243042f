"""What the API can do the SDK can: every operation of the OpenAPI document has a method, in both
kinds of clients."""

from taskforge import AsyncClient, Client
from taskforge.admin import AdminClient, AsyncAdminClient
from taskforge_server.api.rest.openapi import document
from taskforge_server.api.rest.table import ROUTES

METHODS = {
    "createQueue": "queues.create",
    "listQueues": "queues.list",
    "getQueue": "queues.get",
    "updateQueue": "queues.update",
    "deleteQueue": "queues.delete",
    "pauseQueue": "queues.pause",
    "resumeQueue": "queues.resume",
    "cancelJobs": "queues.cancel_jobs",
    "submitJob": "submit",
    "submitBatch": "submit_many",
    "listJobs": "list",
    "getJob": "get",
    "retryJob": "retry",
    "cancelJob": "cancel",
    "changeJob": "change",
    "runJobNow": "run_now",
    "explainJob": "why",
    "waitJobs": "wait_all",
    "listDeadLetters": "dead_letters.list",
    "requeueDeadLetters": "dead_letters.requeue",
    "purgeDeadLetters": "dead_letters.purge",
    "listLogs": "logs",
    "followLogs": "follow_logs",
    "followJob": "job_events",
    "followQueue": "events",
    "followProject": "events",
    "submitGraph": "submit_graph",
    "addParents": "add_parents",
    "listParents": "parents",
    "getGraph": "graph",
    "createSchedule": "schedules.create",
    "putSchedule": "schedules.put",
    "listSchedules": "schedules.list",
    "getSchedule": "schedules.get",
    "updateSchedule": "schedules.update",
    "deleteSchedule": "schedules.delete",
    "pauseSchedule": "schedules.pause",
    "resumeSchedule": "schedules.resume",
    "runSchedule": "schedules.run_now",
    "previewSchedule": "schedules.preview",
    "previewCron": "schedules.preview_cron",
    "listWorkers": "workers.list",
    "getWorker": "workers.get",
    "deleteWorker": "workers.delete",
    "drainWorker": "workers.drain",
    "resumeWorker": "workers.resume",
    "putAssignment": "workers.assign",
    "deleteAssignment": "workers.unassign",
    "listAssignments": "workers.assignments",
}
ADMIN_METHODS = {
    "signUp": "sign_up",
    "logIn": "log_in",
    "logOut": "log_out",
    "acceptInvitation": "accept_invitation",
    "changePassword": "change_password",
    "openProject": "project_token",
    "getMe": "me",
    "getOrganization": "organization",
    "updateOrganization": "update_organization",
    "getSubscription": "subscription",
    "listUsers": "users.list",
    "getUser": "users.get",
    "updateUser": "users.update",
    "deleteUser": "users.delete",
    "invite": "invitations.create",
    "listInvitations": "invitations.list",
    "revokeInvitation": "invitations.revoke",
    "createProject": "projects.create",
    "listProjects": "projects.list",
    "getProject": "projects.get",
    "updateProject": "projects.update",
    "deleteProject": "projects.delete",
    "getEncryption": "projects.encryption",
    "updateEncryption": "projects.encrypt",
    "rotateDataKey": "projects.rotate_data_key",
    "createApiKey": "api_keys.create",
    "listApiKeys": "api_keys.list",
    "getApiKey": "api_keys.get",
    "updateApiKey": "api_keys.update",
    "rotateApiKey": "api_keys.rotate",
    "revokeApiKey": "api_keys.revoke",
    "deleteApiKey": "api_keys.delete",
    "listAudit": "audit.list",
    "exportAudit": "audit.export",
    "verifyAudit": "audit.verify",
}
OTHERWISE = {
    "refreshTokens": "the admin client does it by itself",
    "workerStream": "a Worker does it by itself",
    "heartbeat": "a Worker extends its leases over its stream",
    "listParentsOfLease": "Context.parents, in a handler",
    "getAssignment": "it stands in the list of its queue",
    "projectMetrics": "for Prometheus",
    "openapi": "for tools",
    "healthz": "for who watches over processes",
    "readyz": "for balancers",
    "metrics": "for Prometheus",
}


def test_every_operation_has_its_method() -> None:
    operations = {
        told["operationId"]
        for methods in document(ROUTES)["paths"].values()
        for told in methods.values()
    }
    assert operations == METHODS.keys() | ADMIN_METHODS.keys() | OTHERWISE.keys()


async def test_both_kinds_of_clients_have_them() -> None:
    url = "http://127.0.0.1:1"
    for clients, methods in (
        ((Client(url, "key"), AsyncClient(url, "key")), METHODS),
        ((AdminClient(url), AsyncAdminClient(url)), ADMIN_METHODS),
    ):
        for client in clients:
            for name in methods.values():
                found: object = client
                for part in name.split("."):
                    found = getattr(found, part)
                assert callable(found), name
