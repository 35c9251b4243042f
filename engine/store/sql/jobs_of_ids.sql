-- Some jobs of the project by their ids, whole.
SELECT * FROM jobs WHERE id = ANY ($2::uuid[]) AND project_id = $1
