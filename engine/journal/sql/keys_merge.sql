-- The newest use of a key counts: an older one is past its retention, or was written already.
INSERT INTO idempotency_keys AS known (project_id, key, shard, body_hash, ids, created_at)
SELECT DISTINCT ON (fresh.project_id, fresh.key)
    fresh.project_id, fresh.key, fresh.shard, fresh.body_hash, fresh.ids,
    'epoch'::timestamptz + fresh.created_us * interval '1 microsecond'
FROM unnest($1::uuid[], $2::text[], $3::smallint[], $4::bytea[], $5::bytea[], $6::bigint[])
    AS fresh (project_id, key, shard, body_hash, ids, created_us)
ORDER BY fresh.project_id, fresh.key, fresh.created_us DESC
ON CONFLICT (project_id, key) DO UPDATE SET
    shard = excluded.shard,
    body_hash = excluded.body_hash,
    ids = excluded.ids,
    created_at = excluded.created_at
WHERE excluded.created_at >= known.created_at
