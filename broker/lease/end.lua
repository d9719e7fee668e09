-- End: leases that are pending or active become revoking, and are returned.
--
-- KEYS  1 session  2 due
-- ARGV  1 prefix of lease keys  2 why
--       3 ms since 1970 when another broker may take over
--       4… ids; none: all leases, and the session itself
-- What ends leases works in a full Redis, too: it denies memory to the first
-- write of a script only, and this is one that needs none.
redis.call('ZREM', KEYS[2], '')
local ids = {}
local known = redis.call('HGET', KEYS[1], 'leases')
if not known then return ids end
if #ARGV == 3 then
	redis.call('HSET', KEYS[1], 'ended', '1')
	for id in string.gmatch(known, '%S+') do ids[#ids + 1] = id end
else
	redis.call('HSET', KEYS[1], 'touched', '1')
	for i = 4, #ARGV do
		if string.find(' ' .. known .. ' ', ' ' .. ARGV[i] .. ' ', 1, true) then ids[#ids + 1] = ARGV[i] end
	end
end
local out = {}
for _, id in ipairs(ids) do
	local key = ARGV[1] .. id
	local state = redis.call('HGET', key, 'state')
	if state == 'pending' or state == 'active' then
		redis.call('HSET', key, 'state', 'revoking', 'why', ARGV[2])
		if state == 'pending' then redis.call('HSET', key, 'unsure', '1') end
		redis.call('ZADD', KEYS[2], ARGV[3], id)
		out[#out + 1] = {id, redis.call('HGETALL', key)}
	end
end
return out
