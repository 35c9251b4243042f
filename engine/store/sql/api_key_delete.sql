-- The row goes, and with it the name that the audit log's entries can be read by: revoke instead
-- where that matters.
DELETE FROM api_keys WHERE project_id = $1 AND id = $2
