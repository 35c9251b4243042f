-- Takes back the hints of one node. KEYS: shards. ARGV: node. Those of others stay.
for index = 1, #KEYS do
    if redis.call('GET', KEYS[index]) == ARGV[1] then
        redis.call('DEL', KEYS[index])
    end
end
return 0
