-- When each queue was last told to keep more than it did, and when failed jobs of it were last deleted,
-- or could be for their age. What ended before that may have no row, whatever the queue says today.
SELECT
    substr(target, 7)::uuid AS queue_id,
    max(at) FILTER (
        WHERE action = 'queue.update' AND before #>> '{settings,history}' <> 'all'
    ) AS whole_since,
    max(at) FILTER (
        WHERE action = 'dead_letters.purge'
            OR before #>> '{settings,dead_letters,keep_s}' IS NOT NULL
    ) AS failed_since
FROM audit_log
WHERE target LIKE 'queue:%' AND action IN ('queue.update', 'dead_letters.purge')
GROUP BY target
