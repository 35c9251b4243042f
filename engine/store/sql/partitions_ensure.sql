-- The day is the server's, in UTC: ids are made from the server's clock too. Yesterday is included
-- for jobs that carry an id from before midnight.
SELECT ensure_partitions(
    (now() AT TIME ZONE 'UTC')::date - 1,
    (now() AT TIME ZONE 'UTC')::date + $1::integer
)
