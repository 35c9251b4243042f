SELECT lsn, job_id FROM dead_letter_hooks WHERE queue_id = $1
