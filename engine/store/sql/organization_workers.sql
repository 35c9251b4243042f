-- Workers of an organisation that are there, as the tables know it, a moment late.
SELECT worker.id
FROM workers AS worker
JOIN projects AS project ON project.id = worker.project_id
WHERE project.organization_id = $1
    AND worker.status <> 'offline'
    AND worker.last_heartbeat > $2
LIMIT $3
