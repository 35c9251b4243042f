-- Many keys at once and never backwards: nodes tell now and then which keys they have met.
UPDATE api_keys
SET last_used_at = used.at
FROM unnest($1::uuid[], $2::timestamptz[]) AS used (id, at)
WHERE api_keys.id = used.id
    AND (api_keys.last_used_at IS NULL OR api_keys.last_used_at < used.at)
