-- Whatever stood in the way is thought to be gone.
UPDATE inbox SET refused_at = NULL, problem = NULL, retry_at = NULL
WHERE id = ANY ($1::uuid[]) AND refused_at IS NOT NULL
