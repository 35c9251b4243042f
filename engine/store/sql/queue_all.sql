-- Every queue of every project: what a node keeps in memory and reads again now and then.
SELECT id, project_id, name, priority, settings, created_at, shard, archived_at, paused_at FROM job_queues
