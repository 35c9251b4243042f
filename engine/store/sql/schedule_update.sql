-- The row as people want it. Ticks that are decided stay decided: one may be written at this moment.
UPDATE cron_schedules SET
    cron = $3, timezone = $4, job = $5, payload = $6, catch_up = $7, window_s = $8, overlap = $9,
    jitter_s = $10, paused_at = $11, decided_at = greatest(decided_at, $12), next_at = $13,
    revision = revision + 1, updated_at = now()
WHERE project_id = $1 AND id = $2
