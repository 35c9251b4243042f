-- Rows that a table refused.
SELECT shard, count(*) AS refused FROM projection_errors GROUP BY shard ORDER BY shard
