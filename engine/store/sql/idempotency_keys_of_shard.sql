-- What a new owner of a shard must remember, the oldest first.
SELECT project_id, key, body_hash, ids, created_at
FROM idempotency_keys
WHERE shard = $1 AND created_at > $2
ORDER BY created_at
