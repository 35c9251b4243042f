-- Whole days go at once, by dropping a file instead of deleting rows.
SELECT drop_partitions((now() AT TIME ZONE 'UTC')::date - $1::integer)
