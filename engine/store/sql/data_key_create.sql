-- The next key of a project; the caller holds the row of the project.
INSERT INTO project_keys (id, project_id, number, master_id, wrapped)
VALUES ($1, $2, $3, $4, $5)
