SELECT project_id, role_name, granted_at FROM inbox_grants ORDER BY project_id, role_name
