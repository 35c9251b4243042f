-- Between two portions of one transaction.
TRUNCATE incoming_jobs
