-- Extend: an active lease ends later, never earlier.
--
-- KEYS  1 lease  2 due  3 session
-- ARGV  1 id  2 the new end in ms since 1970
--
-- Returns "ok" or "ended".
if redis.call('HGET', KEYS[1], 'state') ~= 'active' then return 'ended' end
if redis.call('HGET', KEYS[3], 'ended') then return 'ended' end
local expires = redis.call('HGET', KEYS[1], 'expires')
if tonumber(expires) < tonumber(ARGV[2]) then expires = ARGV[2] end
redis.call('HSET', KEYS[1], 'expires', expires) -- also if it is the same: for WAIT
redis.call('ZADD', KEYS[2], expires, ARGV[1])
return 'ok'
