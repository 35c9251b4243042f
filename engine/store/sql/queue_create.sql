-- A name that is taken violates job_queues_name_unique, an Idempotency-Key that made another queue
-- idx_job_queues_creation_key; no row comes back when the project has as
-- many queues as it may have. The count may be passed by a few that are made at the same time.
INSERT INTO job_queues (
    id, project_id, name, priority, settings, shard, creation_key, creation_hash)
SELECT $1, $2, $3, $4, $5, $6, $8, $9
WHERE (
    SELECT count(*) FROM job_queues WHERE project_id = $2 AND archived_at IS NULL
) < $7
RETURNING id, project_id, name, priority, settings, created_at, shard, archived_at, paused_at
