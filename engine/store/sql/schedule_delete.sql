DELETE FROM cron_schedules WHERE project_id = $1 AND id = $2
