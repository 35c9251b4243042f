-- Without any, an organisation has the smallest tier.
DELETE FROM subscriptions WHERE organization_id = $1 AND id = $2
