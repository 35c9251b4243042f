-- What became of jobs. Results count in the order of the ids, until they are more than may be sent:
-- a caller must not get the memory of a node by asking for the largest ones together.
SELECT
    id,
    status,
    reason,
    finished_at,
    CASE WHEN sum(size) OVER (ORDER BY id) <= $3 THEN output END AS output,
    size > 0 AND sum(size) OVER (ORDER BY id) > $3 AS omitted
FROM (
    SELECT
        id,
        status,
        CASE status WHEN 'cancelled' THEN cancel_reason ELSE failed_reason END AS reason,
        finished_at,
        CASE status WHEN 'succeeded' THEN result ELSE last_error END AS output,
        coalesce(octet_length(
            CASE status WHEN 'succeeded' THEN result ELSE last_error END::text
        ), 0) AS size
    FROM jobs
    WHERE id = ANY($1) AND project_id = $2
) AS found
ORDER BY id
