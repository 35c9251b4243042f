-- Within the project. Looked for among open jobs and, by its id, in its day.
SELECT * FROM jobs WHERE id = $1 AND project_id = $2
