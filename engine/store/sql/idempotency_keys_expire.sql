-- Keys past their retention; a bounded number at once, so that no statement holds many row locks.
DELETE FROM idempotency_keys
WHERE (project_id, key) IN (
    SELECT project_id, key FROM idempotency_keys WHERE created_at < $1 LIMIT $2)
