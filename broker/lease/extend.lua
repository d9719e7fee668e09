-- Extend: an active lease ends later, never earlier. The mark that a renewal is
-- under way is for whoever ends the lease meanwhile.
--
-- KEYS  1 lease  2 due  3 session  4 blocks  5 marks
-- ARGV  1 id  2 the new end  3 now  4 when the renewal must be over, all three
--       in ms since 1970
--
-- Returns "ok", "ended", or "blocked " and the id of the block.
local lease = redis.call('HMGET', KEYS[1], 'state', 'expires', 'renewing', 'renewals')
if lease[1] ~= 'active' then return 'ended' end
if redis.call('HGET', KEYS[3], 'ended') then return 'ended' end
local now = tonumber(ARGV[3])
local block = blocked(KEYS[4], now, function() return {redis.call('HGET', KEYS[5], ARGV[1]) or ''} end)
if block then return 'blocked ' .. block end
if tonumber(lease[2]) < tonumber(ARGV[2]) then
	redis.call('HSET', KEYS[1], 'expires', ARGV[2])
	redis.call('ZADD', KEYS[2], ARGV[2], ARGV[1])
end
-- Renewals that were begun and must be over by now died, and count no more.
local others = (tonumber(lease[3] or 0) or 0) > now and tonumber(lease[4] or 0) or 0
redis.call('HSET', KEYS[1], 'renewing', ARGV[4], 'renewals', others + 1)
return 'ok'
