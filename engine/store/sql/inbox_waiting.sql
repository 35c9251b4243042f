-- The oldest rows of these shards whose time has come, as many as weigh no more than $3 together, but
-- one at least. Those that were put off stand behind others by their time, so that a project over its
-- quota does not stand in the way of the rest.
SELECT w.id, w.project_id, p.organization_id, w.queue_id, w.job_type, w.payload, w.options
FROM (
    SELECT i.*,
        sum(octet_length(i.payload) + octet_length(i.options::text)) OVER oldest AS weight,
        row_number() OVER oldest AS place
    FROM (
        SELECT * FROM inbox
        WHERE refused_at IS NULL AND coalesce(retry_at, enqueued_at) <= now() AND shard = ANY ($1)
        ORDER BY coalesce(retry_at, enqueued_at), number
        LIMIT $2
    ) AS i
    WINDOW oldest AS (ORDER BY coalesce(i.retry_at, i.enqueued_at), i.number)
) AS w
JOIN projects AS p ON p.id = w.project_id
WHERE w.weight <= $3 OR w.place = 1
ORDER BY w.place
