-- Where the log ends; nothing for one that has not begun.
SELECT sequence, hash FROM audit_heads WHERE organization_id = $1
