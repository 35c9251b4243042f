-- Dead letters: failed jobs by queue, and how far their hooks have come
-- depends: 0017_job_options

-- migrate: apply

-- Failed jobs alone are in these indexes: a job that succeeds costs them nothing. By the time of the
-- failure for lists, purges and expiry; by the place in the log for hooks.
CREATE INDEX jobs_dead ON jobs (queue_id, finished_at, id) WHERE status = 'failed';

CREATE INDEX jobs_dead_lsn ON jobs (queue_id, lsn, id) WHERE status = 'failed';

-- One row for each queue with a hook: the hooks of all dead letters up to this place of the shard's log
-- are submitted, durably. A hook that is taken away takes its row along; one that comes begins anew.
CREATE TABLE dead_letter_hooks (
    queue_id uuid PRIMARY KEY REFERENCES job_queues (id) ON DELETE CASCADE,
    lsn bigint NOT NULL,
    job_id uuid NOT NULL
);

CALL isolate('dead_letter_hooks', 'SELECT, INSERT, DELETE',
    'EXISTS (SELECT FROM job_queues WHERE job_queues.id = queue_id)');

-- migrate: rollback
