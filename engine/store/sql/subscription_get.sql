-- One subscription of an organisation.
SELECT id, organization_id, tier, limits, current_period_end
FROM subscriptions
WHERE organization_id = $1 AND id = $2
