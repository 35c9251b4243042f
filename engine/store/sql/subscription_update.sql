-- What is NULL stays.
UPDATE subscriptions
SET tier = coalesce($3, tier),
    limits = coalesce($4, limits),
    current_period_end = coalesce($5, current_period_end)
WHERE organization_id = $1 AND id = $2
RETURNING id, organization_id, tier, limits, current_period_end
