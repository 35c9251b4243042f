-- For the operator, who names a project alone.
SELECT organization_id FROM projects WHERE id = $1
