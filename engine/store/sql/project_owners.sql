-- Which organisation each project belongs to, for a node's memory.
SELECT id, organization_id FROM projects
