-- A foreign key refuses a subscription of no organisation.
INSERT INTO subscriptions (id, organization_id, tier, limits, current_period_end)
VALUES ($1, $2, $3, $4, $5)
RETURNING id, organization_id, tier, limits, current_period_end
