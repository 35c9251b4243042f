-- Jobs that wait in the tables alone
-- depends: 0018_dead_letters

-- migrate: apply

-- One index for each way in which a node comes for unfinished jobs, instead of one for all. A row
-- stands in one of the first three at most, as it stood in the one before, and a job that begins and
-- ends within a tick in none.
CREATE INDEX jobs_pending ON jobs (shard, queue_id, job_type, (9 - priority), id)
    WHERE status = 'pending';
CREATE INDEX jobs_scheduled ON jobs (shard, scheduled_for, id) WHERE status = 'scheduled';
CREATE INDEX jobs_running ON jobs (shard) WHERE status = 'processing';

-- Jobs that were told something by which they are looked up, and those that are held: they stay in
-- memory (docs/decisions/0025-jobs-that-are-away.md).
CREATE INDEX jobs_bound ON jobs (shard)
    WHERE status IN ('pending', 'scheduled')
        AND (options IS NOT NULL OR (status = 'scheduled' AND scheduled_for IS NULL));

DROP INDEX jobs_unfinished;

-- migrate: rollback
