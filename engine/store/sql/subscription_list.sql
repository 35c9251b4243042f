-- Keyset page in the order of ids.
SELECT id, organization_id, tier, limits, current_period_end
FROM subscriptions
WHERE organization_id = $1 AND id > $2
ORDER BY id
LIMIT $3
