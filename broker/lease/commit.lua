-- Commit: the minted leases become active, all or none.
--
-- KEYS  1 due  2… leases
-- ARGV  for each lease: id, its end in ms since 1970, its sealed handle or ""
--
-- Returns "ok" or "ended". A lease that is active already was made so by the
-- same call, whose answer got lost.
for k = 2, #KEYS do
	local state = redis.call('HGET', KEYS[k], 'state')
	if state ~= 'pending' and state ~= 'active' then return 'ended' end
end
for k = 2, #KEYS do
	local at = (k - 2) * 3
	redis.call('HSET', KEYS[k], 'state', 'active')
	if ARGV[at + 3] ~= '' then redis.call('HSET', KEYS[k], 'handle', ARGV[at + 3]) end
	redis.call('ZADD', KEYS[1], ARGV[at + 2], ARGV[at + 1])
end
return 'ok'
