-- Not now: the plan or the load forbids it.
UPDATE inbox SET retry_at = now() + $2::double precision * interval '1 second'
WHERE id = ANY ($1::uuid[])
