DELETE FROM inbox_grants WHERE project_id = $1 AND role_name = $2 RETURNING role_name
