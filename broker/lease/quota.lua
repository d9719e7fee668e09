-- Quota: counts an exchange and its leases, or says why not.
--
-- KEYS  1 live leases, each by its last possible end
--       2 exchanges of the last minute, each by its time
-- ARGV  1 now, ms since 1970       2 most live leases, 0 for no limit
--       3 most exchanges a minute, 0 for no limit
--       4 id of the session        5 how many leases   6 how many others
--       then for each lease: its last possible end in ms since 1970, its name;
--       then the names of others that do not count
--
-- A call that is repeated, after its answer got lost, counts once.
--
-- Returns {"ok"}; or {"live", ms until the first of the counted leases must have
-- ended}; or {"rate", ms until one exchange more is allowed}.
local now, most, rate = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local n, others = tonumber(ARGV[5]), tonumber(ARGV[6])

if most > 0 then
	redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now)
	local count = redis.call('ZCARD', KEYS[1])
	for i = 1, n do
		if not redis.call('ZSCORE', KEYS[1], ARGV[6 + 2 * i]) then count = count + 1 end
	end
	for i = 1, others do
		if redis.call('ZSCORE', KEYS[1], ARGV[6 + 2 * n + i]) then count = count - 1 end
	end
	if count > most then
		local first = redis.call('ZRANGE', KEYS[1], 0, 0, 'WITHSCORES')
		return {'live', math.max(0, math.ceil((tonumber(first[2]) or now) - now))}
	end
end
if rate > 0 then
	redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', now - 60000)
	if not redis.call('ZSCORE', KEYS[2], ARGV[4]) and redis.call('ZCARD', KEYS[2]) >= rate then
		local first = redis.call('ZRANGE', KEYS[2], 0, 0, 'WITHSCORES')
		return {'rate', math.max(0, math.ceil(tonumber(first[2]) + 60000 - now))}
	end
	redis.call('ZADD', KEYS[2], now, ARGV[4])
	redis.call('PEXPIRE', KEYS[2], 120000)
end
if most > 0 then
	for i = 1, n do redis.call('ZADD', KEYS[1], ARGV[5 + 2 * i], ARGV[6 + 2 * i]) end
	local last = redis.call('ZRANGE', KEYS[1], -1, -1, 'WITHSCORES')
	redis.call('PEXPIRE', KEYS[1], math.max(1, math.ceil(tonumber(last[2]) - now)) + 60000)
end
return {'ok', 0}
