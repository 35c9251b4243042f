-- Presence and hints of one node. KEYS[1]: its presence; the others: shards that it owns.
-- ARGV: node, time to live in ms. A hint of another node is left alone: it ends by itself.
redis.call('SET', KEYS[1], '1', 'PX', ARGV[2])
local mine = 0
for index = 2, #KEYS do
    local owner = redis.call('GET', KEYS[index])
    if not owner or owner == ARGV[1] then
        redis.call('SET', KEYS[index], ARGV[1], 'PX', ARGV[2])
        mine = mine + 1
    end
end
return mine
