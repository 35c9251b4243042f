-- A key goes when a newer one has signed for longer than a token lives.
DELETE FROM signing_keys
WHERE EXISTS (
    SELECT
    FROM signing_keys AS newer
    WHERE newer.created_at > signing_keys.created_at
        AND newer.created_at < clock_timestamp() - make_interval(secs => $1::double precision)
)
