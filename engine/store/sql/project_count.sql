-- How many projects the organisation has. The count may be passed by a few that are made at the
-- same time: the bound protects the server, it is not what was paid for.
SELECT count(*) FROM projects WHERE organization_id = $1
