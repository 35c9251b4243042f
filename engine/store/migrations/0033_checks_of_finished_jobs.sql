-- Less to look at for a row of a job that succeeded
-- depends: 0031_executions_by_job

-- migrate: apply

-- Why and at which cost: docs/decisions/0031-what-a-finished-job-costs.md. The index is built by one look
-- over its table.

-- No two entries are equal, for the id is behind the queue: looking for equal ones whenever a page is
-- full finds none.
DROP INDEX idx_jobs_queue_id;

CREATE INDEX idx_jobs_queue_id ON jobs (queue_id, id) WITH (deduplicate_items = off);

-- The same states as before. One comparison is enough for nearly all rows; a list is unpacked for each.
ALTER TABLE jobs
    DROP CONSTRAINT jobs_status_known,
    ADD CONSTRAINT jobs_status_known CHECK (
        status = 'succeeded'
        OR status IN ('failed', 'pending', 'scheduled', 'processing', 'cancelled')) NOT VALID;

ALTER TABLE job_executions
    DROP CONSTRAINT job_executions_status_known,
    ADD CONSTRAINT job_executions_status_known CHECK (
        status = 'succeeded' OR status IN ('retrying', 'failed', 'started')) NOT VALID;

ALTER TABLE jobs VALIDATE CONSTRAINT jobs_status_known;

ALTER TABLE job_executions VALIDATE CONSTRAINT job_executions_status_known;

-- migrate: rollback
