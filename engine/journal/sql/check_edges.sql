-- Every edge between jobs, by the shard of its child: that stands in 12 bits of the child's id.
SELECT
    child_job_id AS id, parent_job_id, project_id, on_failure,
    (get_byte(uuid_send(child_job_id), 6) & 15) * 256 + get_byte(uuid_send(child_job_id), 7) AS shard
FROM job_dependencies
ORDER BY shard
