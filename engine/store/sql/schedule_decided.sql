-- What became of ticks, one row of the arguments for each schedule. A later tick may have been
-- written before; and what is said of the next one holds for the revision that it was reckoned by.
-- A job counts also where the row was changed, or somebody who had lost the shard said that there
-- is none: the next tick must know which job came before it.
UPDATE cron_schedules schedule SET
    decided_at = greatest(schedule.decided_at, told.tick),
    last_tick = CASE WHEN told.job_id IS NULL THEN schedule.last_tick ELSE told.tick END,
    last_job_id = coalesce(told.job_id, schedule.last_job_id),
    last_problem = told.problem,
    next_at = CASE WHEN schedule.revision = told.revision THEN told.next_at ELSE schedule.next_at END
FROM unnest($1::uuid[], $2::timestamptz[], $3::uuid[], $4::text[], $5::timestamptz[], $6::bigint[])
    AS told (id, tick, job_id, problem, next_at, revision)
WHERE schedule.id = told.id AND (schedule.decided_at < told.tick
    OR told.job_id IS NOT NULL AND coalesce(schedule.last_tick < told.tick, true))
