-- What holds for a project: the subscription of its organisation that ends last, or none.
SELECT project.organization_id, current.id, current.tier, current.limits,
    current.current_period_end
FROM projects AS project
LEFT JOIN LATERAL (
    SELECT id, tier, limits, current_period_end
    FROM subscriptions
    WHERE subscriptions.organization_id = project.organization_id
    ORDER BY current_period_end DESC, id
    LIMIT 1
) AS current ON true
WHERE project.id = $1
