-- The number of shards that this database was made for.
SELECT count(*) FROM shards
