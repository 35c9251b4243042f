-- Every organisation with the subscription that ends last and what it submitted this month, as the
-- tables know it.
SELECT organization.id AS organization_id, organization.name, current.id, current.tier,
    current.limits, current.current_period_end,
    (
        SELECT coalesce(sum(monthly.jobs), 0)::bigint
        FROM monthly_usage AS monthly
        WHERE monthly.organization_id = organization.id AND monthly.month = $1
    ) AS jobs
FROM organizations AS organization
LEFT JOIN LATERAL (
    SELECT id, tier, limits, current_period_end
    FROM subscriptions
    WHERE subscriptions.organization_id = organization.id
    ORDER BY current_period_end DESC, id
    LIMIT 1
) AS current ON true
ORDER BY organization.created_at, organization.id
