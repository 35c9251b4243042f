-- Foreign keys refuse it while anything belongs to the project.
DELETE FROM projects WHERE organization_id = $1 AND id = $2
