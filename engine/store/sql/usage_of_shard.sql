-- What the tables have counted of a shard; each row says up to which lsn. Read after the watermark:
-- a row may be ahead of it, since an earlier owner of the shard may still write what it knew.
SELECT project_id, organization_id, month, jobs, lsn
FROM monthly_usage
WHERE shard = $1 AND month >= $2
