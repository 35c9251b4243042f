-- As jobs_partition.
WITH held AS (DELETE FROM ONLY job_executions WHERE false)
SELECT part.name
FROM (
    SELECT 'job_executions_p' || to_char(date '1970-01-01' + $1::integer, 'YYYYMMDD')
) AS part (name)
WHERE pg_partition_root(to_regclass(part.name)) = 'job_executions'::regclass
    AND has_table_privilege(to_regclass(part.name), 'INSERT')
    AND NOT row_security_active(to_regclass(part.name))
