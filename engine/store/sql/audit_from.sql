-- The log in the order in which it was written, after an entry: a range of the primary key.
SELECT organization_id, sequence, at, actor_kind, actor_id, address, correlation_id, action, target,
    before, after, previous_hash, hash
FROM audit_log
WHERE organization_id = $1 AND sequence > $2
ORDER BY sequence
LIMIT $3
