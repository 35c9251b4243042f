-- The partition of jobs that ended, of a day ($1, since 1970), or that of open jobs (NULL), if rows may be
-- copied straight into it: who copies needs the right on it that the table gives, and row security must
-- not hold. None else: the table finds the place of each row.
-- The delete of nothing holds the table as COPY into it would, and before its partition: what is found
-- here stays until the commit, since a day is taken out under a lock of the table; and who changes the
-- table, then its partitions, waits for this transaction and never the other way round.
WITH held AS (DELETE FROM ONLY jobs WHERE false)
SELECT part.name
FROM (
    SELECT coalesce('jobs_p' || to_char(date '1970-01-01' + $1::integer, 'YYYYMMDD'), 'jobs_open')
) AS part (name)
WHERE pg_partition_root(to_regclass(part.name)) = 'jobs'::regclass
    AND has_table_privilege(to_regclass(part.name), 'INSERT')
    AND NOT row_security_active(to_regclass(part.name))
