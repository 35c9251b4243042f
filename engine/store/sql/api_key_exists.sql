-- Whether a project has any key: the bootstrap makes one only when there is none.
SELECT EXISTS (SELECT FROM api_keys WHERE project_id = $1)
