-- The indexes that a job that succeeded is not in find that out by a column that is null
-- depends: 0033_checks_of_finished_jobs

-- migrate: apply

-- Why and at which cost: docs/decisions/0031-what-a-finished-job-costs.md. Each index is built by one look
-- over its table.

-- The same states as before. What the indexes below rely on is held here: a job that has not ended has no
-- time at which it did, and one that failed says why. The comparison that is enough for nearly all rows
-- stays first. This comes before all else, for it locks the table and its partitions.
ALTER TABLE jobs
    DROP CONSTRAINT jobs_status_known,
    ADD CONSTRAINT jobs_status_known CHECK (
        status = 'succeeded'
        OR (finished_at IS NULL AND status IN ('pending', 'scheduled', 'processing'))
        OR (failed_reason IS NOT NULL AND status = 'failed')
        OR status = 'cancelled') NOT VALID;

-- No version wrote such rows; people may have.
UPDATE jobs SET finished_at = NULL
WHERE finished_at IS NOT NULL AND status IN ('pending', 'scheduled', 'processing');

UPDATE jobs SET failed_reason = 'error' WHERE failed_reason IS NULL AND status = 'failed';

ALTER TABLE jobs VALIDATE CONSTRAINT jobs_status_known;

-- The conditions of an index are looked at in their order, up to the first that does not hold.
DROP INDEX jobs_pending, jobs_scheduled, jobs_running, jobs_bound, jobs_dead, jobs_dead_lsn;

-- Indexes are gone through in the order in which they were made, and a row is taken apart as far as the
-- next one needs: the one that needs the farthest column comes first, so that it is done once.
CREATE INDEX jobs_bound ON jobs (shard)
    WHERE finished_at IS NULL AND status IN ('pending', 'scheduled')
        AND (options IS NOT NULL OR (status = 'scheduled' AND scheduled_for IS NULL));

CREATE INDEX jobs_pending ON jobs (shard, queue_id, job_type, (9 - priority), id)
    WHERE finished_at IS NULL AND status = 'pending';

CREATE INDEX jobs_scheduled ON jobs (shard, scheduled_for, id)
    WHERE finished_at IS NULL AND status = 'scheduled';

CREATE INDEX jobs_running ON jobs (shard) WHERE finished_at IS NULL AND status = 'processing';

CREATE INDEX jobs_dead ON jobs (queue_id, finished_at, id)
    WHERE failed_reason IS NOT NULL AND status = 'failed';

CREATE INDEX jobs_dead_lsn ON jobs (queue_id, lsn, id)
    WHERE failed_reason IS NOT NULL AND status = 'failed';

-- migrate: rollback
