-- The days up to one that have a partition, attached or not, the oldest first.
SELECT to_date(right(relname, 8), 'YYYYMMDD') AS day
FROM pg_class
WHERE relname ~ '^jobs_p[0-9]{8}$'
    AND relkind = 'r'
    AND pg_table_is_visible(oid)
    AND to_date(right(relname, 8), 'YYYYMMDD') <= $1
ORDER BY day
