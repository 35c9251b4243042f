-- What an organisation has submitted by month, as the tables know it, the newest month first.
SELECT month, sum(jobs)::bigint AS jobs
FROM monthly_usage
WHERE organization_id = $1
GROUP BY month
ORDER BY month DESC
LIMIT $2
