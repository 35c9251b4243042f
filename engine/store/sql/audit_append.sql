-- A trigger refuses what does not follow the head, and moves the head.
INSERT INTO audit_log (
    organization_id, sequence, at, actor_kind, actor_id, address, correlation_id, action, target,
    before, after, previous_hash, hash
) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)
