-- GCRA for many buckets in one call. KEYS: buckets. ARGV[1]: the time in microseconds, or 0 for that
-- of this server; then for each bucket: requests to add, microseconds a request takes.
-- A bucket holds its theoretical arrival time: when all that was let in so far is paid for. What the
-- nodes have let in is always added, so a bucket may be further ahead than its burst: that is paid
-- off before anybody is let in again. Answers how many microseconds each bucket is ahead.
local now = tonumber(ARGV[1])
if now == 0 then
    local time = redis.call('TIME')
    now = time[1] * 1000000 + time[2]
end
local answers = {}
for index = 1, #KEYS do
    local requests, interval = tonumber(ARGV[2 * index]), tonumber(ARGV[2 * index + 1])
    local arrival = tonumber(redis.call('GET', KEYS[index]) or 0)
    local ahead = math.max(arrival - now, 0) + requests * interval
    -- tostring would keep 14 digits only, and the time has 16.
    redis.call('SET', KEYS[index], string.format('%.3f', now + ahead),
        'PX', math.ceil(ahead / 1000) + 1000)
    answers[index] = string.format('%.3f', ahead)
end
return answers
