-- The subscription of an organisation that ends last. The lock of the one who changes it comes first.
SELECT id, organization_id, tier, limits, current_period_end
FROM subscriptions
WHERE organization_id = $1
ORDER BY current_period_end DESC, id
LIMIT 1
