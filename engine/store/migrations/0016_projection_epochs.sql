-- The tables know the owner of a shard
-- depends: 0014_queue_keys

-- migrate: apply

-- The ownership that was the last to take the shard over: no earlier one writes its rows any more.
ALTER TABLE shard_projection ADD COLUMN epoch bigint NOT NULL DEFAULT 0;

-- migrate: rollback
