-- A version never goes back, and the time of the row is that of its last change.
INSERT INTO token_revocations (subject, organization_id, version)
SELECT unnest($1::uuid[]), $2, $3
ON CONFLICT (subject) DO UPDATE
SET version = greatest(token_revocations.version, excluded.version),
    revoked_at = clock_timestamp()
