-- As jobs_replaced.
DELETE FROM job_executions AS known
WHERE known.id = ANY (ARRAY(
        SELECT encode(substr($1::bytea, at, 16), 'hex')::uuid
        FROM generate_series(1, length($1::bytea), 16) AS at))
    AND known.id >= $2 AND known.id < $3
    AND known.lsn <= ($4::bigint[])[known.shard + 1]
