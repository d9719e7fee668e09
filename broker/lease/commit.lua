-- Commit: the minted leases become active, all or none.
--
-- KEYS  1 due  2… leases
-- ARGV  1 now, ms since 1970
--       then for each lease: id, its end in ms since 1970, its sealed handle or ""
--
-- Returns "ok" or "ended". A lease that is active already was made so by the
-- same call, whose answer got lost. One that needs heartbeats is due by the
-- first that it must hear, counted from now: minting takes its time.
for k = 2, #KEYS do
	local state = redis.call('HGET', KEYS[k], 'state')
	if state ~= 'pending' and state ~= 'active' then return 'ended' end
end
for k = 2, #KEYS do
	local at = (k - 2) * 3 + 1
	local due = tonumber(ARGV[at + 2])
	local silence = tonumber(redis.call('HGET', KEYS[k], 'deadman') or '')
	redis.call('HSET', KEYS[k], 'state', 'active')
	if ARGV[at + 3] ~= '' then redis.call('HSET', KEYS[k], 'handle', ARGV[at + 3]) end
	if silence then
		local beat = tonumber(ARGV[1]) + silence
		redis.call('HSET', KEYS[k], 'beat', string.format('%d', beat))
		due = math.min(due, beat)
	end
	redis.call('ZADD', KEYS[1], due, ARGV[at + 1])
end
return 'ok'
