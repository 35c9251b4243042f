-- Names of what stands in the way of a queue's deletion; its row is locked, so none is added.
SELECT name FROM cron_schedules WHERE queue_id = $1 ORDER BY name LIMIT $2
