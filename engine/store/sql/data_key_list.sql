-- The keys of a project as people see them: never the keys themselves, nor their ids.
SELECT number, master_id, created_at, wrapped_at FROM project_keys
WHERE project_id = $1
ORDER BY number DESC
