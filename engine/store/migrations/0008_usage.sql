-- What subscriptions allow and what was used
-- depends: 0007_isolation

-- migrate: apply

-- Jobs submitted, by the shard that they went to, project and calendar month (UTC), as the log says
-- up to `lsn`. The projector writes a count in the transaction of the shard's watermark, and never a
-- change of it: written twice, or late by an earlier owner, it says the same. The organisation is
-- kept beside the project, so that what a deleted project used still counts.
CREATE TABLE monthly_usage (
    shard smallint NOT NULL,
    project_id uuid NOT NULL,
    month integer NOT NULL CONSTRAINT monthly_usage_month_form
        CHECK (month BETWEEN 197001 AND 999912 AND month % 100 BETWEEN 1 AND 12),
    organization_id uuid,
    jobs bigint NOT NULL CONSTRAINT monthly_usage_jobs_counted CHECK (jobs >= 0),
    lsn bigint NOT NULL,
    PRIMARY KEY (shard, project_id, month)
);

CREATE INDEX idx_monthly_usage_organization_id ON monthly_usage (organization_id, month);

CALL isolate('monthly_usage', 'SELECT', 'organization_id = (SELECT tenant_organization())');

-- The current one of an organisation is that which ends last.
DROP INDEX idx_subscriptions_organization_id;

CREATE INDEX idx_subscriptions_organization_id
    ON subscriptions (organization_id, current_period_end DESC, id);

-- migrate: rollback
