-- Whose project it is: a transaction that begins with a project alone acts for this organisation.
SELECT organization_id FROM projects WHERE id = $1
