-- Which request made a queue
-- depends: 0013_returns

-- migrate: apply

-- The Idempotency-Key of that request, with the hash of what it asked for: a repetition finds the
-- queue that it made. Kept as long as the queue.
ALTER TABLE job_queues
    ADD COLUMN creation_key varchar(255),
    ADD COLUMN creation_hash bytea;

CREATE UNIQUE INDEX idx_job_queues_creation_key ON job_queues (project_id, creation_key)
    WHERE creation_key IS NOT NULL AND archived_at IS NULL;

-- migrate: rollback
