-- Lines of which some may be there already: a worker that lost its connection sends them again.
INSERT INTO execution_logs (id, execution_id, level, message, metadata, logged_at, project_id)
SELECT * FROM unnest(
    $1::uuid[], $2::uuid[], $3::varchar[], $4::text[], $5::jsonb[], $6::timestamptz[], $7::uuid[]
)
ON CONFLICT (id) DO NOTHING
