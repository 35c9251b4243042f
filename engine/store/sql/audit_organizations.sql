-- Whoever has a log or should have one: an organisation whose whole log is gone is among them.
SELECT id FROM organizations
UNION SELECT organization_id FROM audit_heads
UNION SELECT organization_id FROM audit_log
ORDER BY 1
