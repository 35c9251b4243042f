-- Takes counted attempts back; a window that is over stays away.
for _, key in ipairs(KEYS) do
    if redis.call('EXISTS', key) == 1 and redis.call('DECR', key) <= 0 then
        redis.call('DEL', key)
    end
end
return 0
