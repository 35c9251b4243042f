-- What a job was told beyond the fields that every job has
-- depends: 0016_projection_epochs

-- migrate: apply

-- `options` is JSON that the engine carries along (engine/model/joboptions.py), `keep` has the row stay
-- whatever the history of its queue says. NULL in both is a plain job; such a row takes no byte for them.
ALTER TABLE jobs ADD COLUMN options jsonb, ADD COLUMN keep boolean;

-- A queue that is paused starts nothing; since when, and NULL where it is not.
ALTER TABLE job_queues ADD COLUMN paused_at timestamptz;

-- migrate: rollback
