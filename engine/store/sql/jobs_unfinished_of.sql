-- Which of these jobs have not ended, as the tables have it.
SELECT id FROM jobs
WHERE id = ANY ($1::uuid[])
    AND finished_at IS NULL AND status IN ('pending', 'scheduled', 'processing')
