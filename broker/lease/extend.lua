-- Extend: an active lease ends later, never earlier.
--
-- KEYS  1 lease  2 due  3 session
-- ARGV  1 id  2 the new end in ms since 1970
--
-- Returns "ok" or "ended".
if redis.call('HGET', KEYS[1], 'state') ~= 'active' then return 'ended' end
if redis.call('HGET', KEYS[3], 'ended') then return 'ended' end
if tonumber(redis.call('HGET', KEYS[1], 'expires')) < tonumber(ARGV[2]) then
	redis.call('HSET', KEYS[1], 'expires', ARGV[2])
	redis.call('ZADD', KEYS[2], ARGV[2], ARGV[1])
end
return 'ok'
