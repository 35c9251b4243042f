-- A page of the lines of some executions, the oldest first. All lines of an execution have ids from
-- low to high: each is one range of the primary key, in one partition, LOG_LINES_MAX rows at most.
SELECT page.*
FROM unnest($1::uuid[], $2::uuid[], $3::uuid[]) AS wanted (execution_id, low, high)
CROSS JOIN LATERAL (
    SELECT * FROM execution_logs
    WHERE execution_logs.id >= wanted.low
        AND execution_logs.id <= wanted.high
        AND execution_logs.id > $4
        AND execution_logs.execution_id = wanted.execution_id
        AND execution_logs.project_id = $5
        AND ($6::varchar IS NULL OR execution_logs.level = $6)
    ORDER BY execution_logs.id
    LIMIT $7
) AS page
ORDER BY page.id
LIMIT $7
