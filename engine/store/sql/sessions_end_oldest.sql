-- What a person has beyond the bound, the oldest.
DELETE FROM user_sessions
WHERE id IN (
    SELECT id
    FROM user_sessions
    WHERE user_id = $1
    ORDER BY created_at DESC, id
    OFFSET $2
)
RETURNING id
