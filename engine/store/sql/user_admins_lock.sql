-- Locked in one order, so that of two admins who demote each other the second sees the first's act.
SELECT id
FROM users
WHERE organization_id = $1 AND role = 'admin' AND disabled_at IS NULL
ORDER BY id
FOR UPDATE
