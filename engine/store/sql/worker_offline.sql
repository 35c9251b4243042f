-- Workers that nobody has heard of since the given time: their node died before it could say so.
UPDATE workers SET status = 'offline' WHERE last_heartbeat < $1 AND status <> 'offline'
