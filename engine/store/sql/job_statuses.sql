-- How these jobs are, as far as they have rows. Ids are the partition key.
SELECT id, status FROM jobs WHERE id = ANY ($1::uuid[])
