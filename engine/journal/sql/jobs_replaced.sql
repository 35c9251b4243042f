-- The rows whose places others take in the same transaction; a newer row stays, and is in their way.
-- Ids and lsns come as the bytes of their rows: an array would be made of an object for each. OFFSET
-- keeps them out of the condition of each partition, where they would be copied. $2, $3: the days that the
-- ids are of; partitions of others are neither planned nor locked. Whole days: of a narrower span that is
-- newer than the statistics the planner believes that it is empty, and reads it for each place.
DELETE FROM jobs AS known
USING (
    SELECT encode(substr($1::bytea, at, 16), 'hex')::uuid AS id,
        ('x' || encode(substr($1::bytea, at + 16, 8), 'hex'))::bit(64)::bigint AS lsn
    FROM generate_series(1, length($1::bytea), 24) AS at
    OFFSET 0
) AS place
WHERE known.id = place.id AND known.lsn <= place.lsn AND known.id >= $2 AND known.id < $3
