-- Heartbeat: the active leases of a session that need heartbeats live on.
--
-- KEYS  1 session  2 due  3 proof mark
-- ARGV  1 prefix of lease keys  2 now, ms since 1970
--       3 proof id, or ""  4 ms to remember the proof
--       5 what this call writes there, to know itself when it is repeated
--
-- Returns "ok", "proof", "ended", or "unknown". A lease whose time is over, or
-- that was silent for too long, is for a sweeper, and does not live on.
--
-- It works in a full Redis, too, which would end whom it does not hear: that
-- denies memory to the first write of a script only, and this one needs none.
redis.call('ZREM', KEYS[2], '')
local session = redis.call('HMGET', KEYS[1], 'leases', 'ended')
if not session[1] then return 'unknown' end
if ARGV[3] ~= '' and not redis.call('SET', KEYS[3], ARGV[5], 'NX', 'PX', ARGV[4]) then
	if redis.call('GET', KEYS[3]) ~= ARGV[5] then return 'proof' end
end
if session[2] then return 'ended' end
local needs, heard, now = false, false, tonumber(ARGV[2])
for id in string.gmatch(session[1], '%S+') do
	local lease = redis.pcall('HMGET', ARGV[1] .. id, 'state', 'expires', 'deadman', 'beat')
	if not lease.err and lease[3] then
		needs = true
		local ends, silence, beat = tonumber(lease[2] or ''), tonumber(lease[3]), tonumber(lease[4] or '')
		if lease[1] == 'active' and ends and silence and beat and now < ends and now < beat then
			heard = true
			beat = math.max(beat, now + silence)
			redis.call('HSET', ARGV[1] .. id, 'beat', string.format('%d', beat))
			redis.call('ZADD', KEYS[2], math.min(ends, beat), id)
		end
	end
end
if needs and not heard then return 'ended' end
return 'ok'
