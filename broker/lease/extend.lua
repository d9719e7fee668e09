-- Extend: an active lease ends later, never earlier. The mark that a renewal is
-- under way is for whoever ends the lease meanwhile. A renewal is a heartbeat,
-- too; one that comes after too long a silence is none, as for heartbeat.lua.
--
-- KEYS  1 lease  2 due  3 session  4 blocks  5 marks
-- ARGV  1 id  2 the new end  3 now  4 when the renewal must be over, all three
--       in ms since 1970
--
-- Returns "ok", "ended", or "blocked " and the id of the block.
local lease = redis.call('HMGET', KEYS[1], 'state', 'expires', 'renewing', 'renewals', 'deadman', 'beat')
if lease[1] ~= 'active' then return 'ended' end
if redis.call('HGET', KEYS[3], 'ended') then return 'ended' end
local now, silence = tonumber(ARGV[3]), tonumber(lease[5] or '')
local beat = tonumber(lease[6] or '')
if lease[5] and not (silence and beat and now < beat) then return 'ended' end
local block = blocked(KEYS[4], now, function() return {redis.call('HGET', KEYS[5], ARGV[1]) or ''} end)
if block then return 'blocked ' .. block end
local ends = math.max(tonumber(lease[2]), tonumber(ARGV[2]))
if tonumber(lease[2]) < ends then redis.call('HSET', KEYS[1], 'expires', ARGV[2]) end
if silence then
	beat = math.max(beat, now + silence)
	redis.call('HSET', KEYS[1], 'beat', string.format('%d', beat))
	redis.call('ZADD', KEYS[2], math.min(ends, beat), ARGV[1])
elseif tonumber(lease[2]) < ends then
	redis.call('ZADD', KEYS[2], ARGV[2], ARGV[1])
end
-- Renewals that were begun and must be over by now died, and count no more.
local others = (tonumber(lease[3] or 0) or 0) > now and tonumber(lease[4] or 0) or 0
redis.call('HSET', KEYS[1], 'renewing', ARGV[4], 'renewals', others + 1)
return 'ok'
