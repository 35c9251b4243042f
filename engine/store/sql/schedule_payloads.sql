SELECT id, payload::text AS payload FROM cron_schedules WHERE id = ANY ($1::uuid[])
