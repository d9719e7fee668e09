-- Order: leases that are pending or active become revoking, by an operator's
-- order or because their run ends, and are due now.
--
-- KEYS  1 due
-- ARGV  1 prefix of lease keys  2 prefix of session keys  3 now, ms since 1970
--       4 why  5 id of the order, or ""  6 "1" if their sessions end, too  7… ids
--
-- Returns the ids of those that did.
-- It works in a full Redis, too: see write.lua.
redis.call('ZREM', KEYS[1], '')
local out = {}
for i = 7, #ARGV do
	local key = ARGV[1] .. ARGV[i]
	local lease = redis.pcall('HMGET', key, 'state', 'session')
	if failed(lease) then return lease end
	if not lease.err and lease[2] then
		local session = ARGV[2] .. lease[2]
		if redis.call('EXISTS', session) == 1 then
			local set = redis.pcall('HSET', session, ARGV[6] == '1' and 'ended' or 'touched', '1')
			if failed(set) then return set end
		end
	end
	if lease[1] == 'pending' or lease[1] == 'active' then
		redis.call('HSET', key, 'state', 'revoking', 'why', ARGV[4], 'order', ARGV[5])
		if lease[1] == 'pending' then redis.call('HSET', key, 'unsure', '1') end
		redis.call('ZADD', KEYS[1], ARGV[3], ARGV[i])
		out[#out + 1] = ARGV[i]
	end
end
return out
