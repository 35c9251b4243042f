-- The rows whose places others take in the same transaction, open and ended ones. A newer row stays:
-- newer than all that this round knows of its shard ($4, by number), as are those of a later owner
-- alone. It is in their way if it is of their kind; if not, the owner is found before the commit.
-- Ids come as the bytes of their rows: an array would be made of an object for each. The planner sees
-- that there is a list, and not the list: it is not copied for each partition, and each is gone
-- through once, in the order of its index. $2, $3: the days that the ids are of; partitions of others
-- are neither planned nor locked. Whole days: a narrower span that is newer than the statistics is
-- thought empty.
DELETE FROM jobs AS known
WHERE known.id = ANY (ARRAY(
        SELECT encode(substr($1::bytea, at, 16), 'hex')::uuid
        FROM generate_series(1, length($1::bytea), 16) AS at))
    AND known.id >= $2 AND known.id < $3
    AND known.lsn <= ($4::bigint[])[known.shard + 1]
