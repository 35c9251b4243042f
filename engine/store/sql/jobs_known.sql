-- How many of these jobs the project has. Ids are the partition key.
SELECT count(*) FROM jobs WHERE project_id = $1 AND id = ANY ($2::uuid[])
