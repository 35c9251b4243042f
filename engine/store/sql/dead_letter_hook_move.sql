-- All up to this place is submitted; never back, should two nodes be at it for a moment.
UPDATE dead_letter_hooks SET lsn = $2, job_id = $3
WHERE queue_id = $1 AND (lsn, job_id) < ($2::bigint, $3::uuid)
