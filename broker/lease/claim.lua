-- Claim: leases whose time has come become revoking, and are returned. They
-- are due again later, in case this broker does not finish them.
--
-- An active lease whose heartbeat was due before its end was silent for too long.
--
-- KEYS  1 due
-- ARGV  1 prefix of lease keys  2 now  3 when due again, both ms since 1970
--       4 how many at most
-- What ends leases works in a full Redis, too: it denies memory to the first
-- write of a script only, and this is one that needs none.
redis.call('ZREM', KEYS[1], '')
local out = {}
for _, id in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', ARGV[2], 'LIMIT', 0, ARGV[4])) do
	local key = ARGV[1] .. id
	local kind = redis.call('TYPE', key)['ok']
	local state = kind == 'hash' and redis.call('HGET', key, 'state')
	if state == 'pending' then redis.call('HSET', key, 'state', 'revoking', 'why', 'lapsed', 'unsure', '1') end
	if state == 'active' then
		local times = redis.call('HMGET', key, 'expires', 'beat')
		local ends, beat = tonumber(times[1] or ''), tonumber(times[2] or '')
		redis.call('HSET', key, 'state', 'revoking', 'why', beat and ends and beat < ends and 'silent' or 'expired')
	end
	if state == 'pending' or state == 'active' or state == 'revoking' then
		redis.call('ZADD', KEYS[1], ARGV[3], id)
		out[#out + 1] = {id, redis.call('HGETALL', key)}
	else
		out[#out + 1] = {id, {}} -- deleted or overwritten: the caller quarantines it
	end
end
return out
