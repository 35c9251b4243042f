-- Whole counts of submitted jobs; the one with the greater lsn is right, whoever wrote it. The
-- organisation is looked up once, when the first job of the month is counted.
INSERT INTO monthly_usage AS known (shard, project_id, month, organization_id, jobs, lsn)
SELECT fresh.shard, fresh.project_id, fresh.month,
    (SELECT organization_id FROM projects WHERE projects.id = fresh.project_id),
    fresh.jobs, fresh.lsn
FROM unnest($1::smallint[], $2::uuid[], $3::integer[], $4::bigint[], $5::bigint[])
    AS fresh (shard, project_id, month, jobs, lsn)
ORDER BY fresh.shard, fresh.project_id, fresh.month
ON CONFLICT (shard, project_id, month) DO UPDATE SET
    jobs = excluded.jobs,
    lsn = excluded.lsn
WHERE excluded.lsn > known.lsn
