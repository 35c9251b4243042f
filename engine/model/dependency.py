"""A dependency: the child starts after the parent, if it succeeds, or as `on_failure` says."""

from taskforge_server.engine.errors import InvalidInput
from taskforge_server.engine.model.base import Id, Model, Time
from taskforge_server.engine.model.graph import OnFailure


class JobDependency(Model, frozen=True, kw_only=True):
    """A row of `job_dependencies`."""

    parent_job_id: Id
    child_job_id: Id
    on_failure: OnFailure = "block"
    created_at: Time

    def validate(self) -> None:
        super().validate()
        if self.parent_job_id == self.child_job_id:
            raise InvalidInput("a job cannot wait for itself", "parent_job_id")
