-- Locks the end of the organisation's log until the transaction ends; begins a log that is new.
SELECT sequence, hash, at FROM audit_head($1)
