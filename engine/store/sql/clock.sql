-- The time now, not that of the start of a transaction.
SELECT clock_timestamp()
