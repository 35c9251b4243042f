-- As jobs_replaced.
DELETE FROM job_executions AS known
USING (
    SELECT encode(substr($1::bytea, at, 16), 'hex')::uuid AS id,
        ('x' || encode(substr($1::bytea, at + 16, 8), 'hex'))::bit(64)::bigint AS lsn
    FROM generate_series(1, length($1::bytea), 24) AS at
    OFFSET 0
) AS place
WHERE known.id = place.id AND known.lsn <= place.lsn AND known.id >= $2 AND known.id < $3
