"""The route that says why a job is not running."""

from typing import Annotated, Any

from msgspec import Meta

from taskforge_server.api.rest.handlers import Services, job_id_of
from taskforge_server.api.rest.routes import Call, Reply, Route, answer
from taskforge_server.api.rest.schemas import Answer, UuidText
from taskforge_server.engine.model import permissions
from taskforge_server.engine.model.base import Time
from taskforge_server.engine.model.job import JobStatus
from taskforge_server.engine.model.why import CODES
from taskforge_server.ext.ids import uuid_text


class ReasonView(Answer):
    """One thing that keeps the job from running."""

    code: Annotated[str, Meta(extra_json_schema={"enum": list(CODES)})]
    message: str
    details: Annotated[dict[str, Any], Meta(description="what the message speaks of")]


class WhyView(Answer):
    """Why a job is not running."""

    job_id: UuidText
    status: JobStatus
    running: bool
    reasons: Annotated[list[ReasonView], Meta(min_length=1, description="what weighs most first")]
    estimated_start_at: Annotated[
        Time | None,
        Meta(description="by how fast jobs of the queue started lately; null: nobody can say"),
    ]


async def why(services: Services, call: Call) -> Reply:
    job_id = job_id_of(call)
    found = await services.jobs.why(call.principal.project_id, job_id)
    if not call.principal.may(permissions.WORKERS_READ):
        found.without_workers()
    reasons = [
        ReasonView(code=reason.code, message=reason.message, details=reason.details)
        for reason in found.reasons
    ]
    view = WhyView(
        job_id=uuid_text(job_id),
        status=found.status,
        running=found.running,
        reasons=reasons,
        estimated_start_at=found.estimated_start_at,
    )
    return answer(call, view)


ROUTES = (
    Route(
        method="GET",
        path="/v1/jobs/{job_id}/why",
        operation_id="explainJob",
        summary="Why a job is not running: position, limits, workers, times, in words and codes",
        tag="jobs",
        permission=permissions.JOBS_READ,
        handler=why,
        reply=WhyView,
        problems=("job_not_found",),
    ),
)
