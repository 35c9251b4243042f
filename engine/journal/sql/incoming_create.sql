-- Rows on their way into the tables by merge; one pair per connection, empty after each transaction.
CREATE TEMPORARY TABLE IF NOT EXISTS incoming_jobs (LIKE jobs) ON COMMIT DELETE ROWS;
CREATE TEMPORARY TABLE IF NOT EXISTS incoming_executions (LIKE job_executions)
    ON COMMIT DELETE ROWS;
