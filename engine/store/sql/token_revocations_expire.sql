-- Tokens that these rows speak of have expired.
DELETE FROM token_revocations
WHERE subject IN (
    SELECT subject
    FROM token_revocations
    WHERE revoked_at < clock_timestamp() - make_interval(secs => $1::double precision)
    LIMIT $2
)
