-- Rows of these shards and projects whose time has come, as many as weigh no more than $3 together, but
-- one at least. Organisations take turns, and of each the oldest rows come first; so nobody's million
-- stands before the one row of another. Those that were put off stand behind others by their time, so that
-- a project over its quota does not stand in the way of the rest.
SELECT w.id, w.project_id, w.organization_id, w.queue_id, w.job_type, w.payload, w.options
FROM (
    SELECT f.*,
        sum(octet_length(f.payload) + octet_length(f.options::text)) OVER turns AS weight,
        row_number() OVER turns AS place
    FROM (
        SELECT i.*, p.organization_id, coalesce(i.retry_at, i.enqueued_at) AS waits_since,
            row_number() OVER (
                PARTITION BY p.organization_id ORDER BY coalesce(i.retry_at, i.enqueued_at), i.number
            ) AS turn
        FROM projects AS p
        CROSS JOIN LATERAL (
            SELECT * FROM inbox
            WHERE inbox.project_id = p.id AND refused_at IS NULL
                AND coalesce(retry_at, enqueued_at) <= now() AND shard = ANY ($1)
            ORDER BY coalesce(retry_at, enqueued_at), number
            LIMIT greatest(1, $2 / cardinality($4::uuid[]))
        ) AS i
        WHERE p.id = ANY ($4)
    ) AS f
    WINDOW turns AS (ORDER BY f.turn, f.waits_since, f.number)
) AS w
WHERE w.place <= $2 AND (w.weight <= $3 OR w.place = 1)
ORDER BY w.place
