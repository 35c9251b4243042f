-- Projects of which rows wait, from behind one in the order of their ids: one probe of the index each,
-- however many rows they have.
WITH RECURSIVE waiting AS (
    (SELECT project_id FROM inbox WHERE refused_at IS NULL AND project_id > $1
        ORDER BY project_id LIMIT 1)
    UNION ALL
    SELECT (
        SELECT inbox.project_id FROM inbox
        WHERE refused_at IS NULL AND inbox.project_id > waiting.project_id
        ORDER BY inbox.project_id LIMIT 1
    )
    FROM waiting WHERE waiting.project_id IS NOT NULL
)
SELECT project_id FROM waiting WHERE project_id IS NOT NULL LIMIT $2
