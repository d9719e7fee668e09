-- Retry: stuck leases are due now, with all their attempts before them.
--
-- KEYS  1 due  2 stuck
-- ARGV  1 prefix of lease keys  2 now, ms since 1970  3… ids
--
-- Returns the ids of those that are.
-- It works in a full Redis, too: see write.lua.
redis.call('ZREM', KEYS[1], '')
local out = {}
for i = 3, #ARGV do
	local key = ARGV[1] .. ARGV[i]
	local state = redis.pcall('HGET', key, 'state')
	if failed(state) then return state end
	if state == 'stuck' and redis.call('SREM', KEYS[2], ARGV[i]) == 1 then
		redis.call('HSET', key, 'state', 'revoking', 'attempts', 0)
		redis.call('ZADD', KEYS[1], ARGV[2], ARGV[i])
		out[#out + 1] = ARGV[i]
	end
end
return out
