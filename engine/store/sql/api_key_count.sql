-- Keys of a project that count against its bound. The caller holds the project's row, so that two
-- who count at one time do so one after the other.
SELECT count(*) FROM api_keys WHERE project_id = $1 AND revoked_at IS NULL
