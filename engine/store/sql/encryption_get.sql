-- Within the organisation: an id of another organisation is as good as unknown.
SELECT encrypted FROM projects WHERE organization_id = $1 AND id = $2
