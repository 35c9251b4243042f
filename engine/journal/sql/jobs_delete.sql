-- Finished jobs that the history of their queue does not keep, but that were written while open. Each
-- comes with the lsn of its end: what is newer was written by a later owner of the shard, for whom the
-- job lives again.
DELETE FROM jobs AS known
USING unnest($1::uuid[], $2::bigint[]) AS gone (id, lsn)
WHERE known.id = gone.id AND known.lsn <= gone.lsn
