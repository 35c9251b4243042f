-- The newest first, before the last number of the page before; what is NULL does not matter.
SELECT organization_id, sequence, at, actor_kind, actor_id, address, correlation_id, action, target,
    before, after, previous_hash, hash
FROM audit_log
WHERE organization_id = $1 AND sequence < $2
    AND ($4::uuid IS NULL OR actor_id = $4)
    AND ($5::text IS NULL OR action = $5)
ORDER BY sequence DESC
LIMIT $3
