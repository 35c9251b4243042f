-- Every organisation with the subscription that ends last, for upkeep that works by the plan.
SELECT organization.id AS organization_id, current.id, current.tier, current.limits,
    current.current_period_end
FROM organizations AS organization
LEFT JOIN LATERAL (
    SELECT id, tier, limits, current_period_end
    FROM subscriptions
    WHERE subscriptions.organization_id = organization.id
    ORDER BY current_period_end DESC, id
    LIMIT 1
) AS current ON true
