-- What was taken back lately, by the clock of the database that wrote the times.
SELECT subject, version
FROM token_revocations
WHERE revoked_at >= clock_timestamp() - make_interval(secs => $1::double precision)
