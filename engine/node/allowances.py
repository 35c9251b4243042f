"""A node's part in what organisations may use: the tasks behind plans, rates and counts.

rates           settled with the other nodes
usage           what was counted in shards of other nodes is read now and then
"""

from taskforge_server.engine.model.subscription import Plan
from taskforge_server.engine.node.core import Core
from taskforge_server.engine.store.subscriptions import Subscriptions
from taskforge_server.engine.store.usage import UsageRows


class AllowanceUpkeep:
    """What is done at intervals."""

    def __init__(self, core: Core, subscriptions: Subscriptions, usage_rows: UsageRows) -> None:
        self._core = core
        self._subscriptions = subscriptions
        self._usage_rows = usage_rows
        self._elsewhere = False

    def learned(self, project_id: bytes, plan: Plan) -> None:
        """A plan was read: the quota of its organisation is as it says."""
        account = self._core.usage.learn(project_id, plan.organization_id)
        account.jobs_max = plan.limits.max_jobs_per_month
        self._core.dispatcher.weigh(project_id, plan.limits.weight or 1)

    async def read_owners(self) -> None:
        """Which organisation each project belongs to, and what part of a node it gets."""
        plans = await self._subscriptions.plans()
        weights = {plan.organization_id: plan.limits.weight or 1 for plan in plans}
        for project_id, organization_id in await self._usage_rows.owners():
            self._core.usage.learn(project_id, organization_id)
            self._core.dispatcher.weigh(project_id, weights.get(organization_id, 1))

    async def read_elsewhere(self, missing: bool) -> None:
        """What others counted; nothing to ask while all shards are here."""
        if not missing and not self._elsewhere:
            return
        month = self._core.usage.month_at(self._core.clock.now_us())
        jobs = await self._usage_rows.elsewhere(month, self._core.shards) if missing else {}
        self._core.usage.counted_elsewhere(month, jobs)
        self._elsewhere = missing
