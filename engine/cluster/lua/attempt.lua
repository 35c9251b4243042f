-- Counts an attempt in windows that begin with the first one; all of them or, if one is full, none.
-- KEYS: one for each window; ARGV: for each its most attempts and its length in milliseconds.
-- Answers how many milliseconds to wait, 0 when the attempt may be made.
for at, key in ipairs(KEYS) do
    local made = tonumber(redis.call('GET', key) or '0')
    if made >= tonumber(ARGV[2 * at - 1]) then
        return math.max(redis.call('PTTL', key), 1)
    end
end
for at, key in ipairs(KEYS) do
    if redis.call('INCR', key) == 1 then
        redis.call('PEXPIRE', key, ARGV[2 * at])
    end
end
return 0
