-- As jobs_partition.
WITH held AS (DELETE FROM ONLY job_executions WHERE false)
SELECT part.relname
FROM pg_inherits
JOIN pg_class AS part ON part.oid = inhrelid
WHERE inhparent = 'job_executions'::regclass
    AND inhrelid = to_regclass(
        'job_executions_p' || to_char(date '1970-01-01' + $1::integer, 'YYYYMMDD'))
    AND has_table_privilege(inhrelid, 'INSERT')
    AND NOT row_security_active(inhrelid)
