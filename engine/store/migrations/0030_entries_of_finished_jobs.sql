-- Fewer index entries for what is written once and over
-- depends: 0025_inbox

-- migrate: apply

-- Why and at which cost: docs/decisions/0031-what-a-finished-job-costs.md. Each index is built by one
-- look over its table.

-- Nobody looks for jobs that succeeded by their state: nearly all did. All other states are here.
DROP INDEX idx_jobs_status_scheduled_priority;

CREATE INDEX idx_jobs_status_scheduled_priority ON jobs (status, scheduled_for, priority)
    WHERE status <> 'succeeded';

-- Which workers have something in a range of blocks.
DROP INDEX idx_job_executions_worker_id;

CREATE INDEX idx_job_executions_worker_id ON job_executions USING brin (worker_id uuid_bloom_ops)
    WITH (pages_per_range = 128);

-- As before, but that vacuum summarises it: at full load requests for single ranges came faster than
-- autovacuum takes them, and each that it did not take was three lines in the log of the server.
DROP INDEX idx_jobs_created_at;

CREATE INDEX idx_jobs_created_at ON jobs USING brin (created_at) WITH (pages_per_range = 32);

-- migrate: rollback
