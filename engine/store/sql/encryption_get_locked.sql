-- The same, held to the end of the transaction: keys of a project are made one after the other.
SELECT encrypted FROM projects WHERE organization_id = $1 AND id = $2 FOR UPDATE
