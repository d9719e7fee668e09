-- Count: one use more of what was made under a lease, or none.
--
-- KEYS  1 counter
-- ARGV  1 how many at most  2 ms to keep the counter
--
-- Returns "ok" or "used up".
if tonumber(redis.call('GET', KEYS[1]) or 0) >= tonumber(ARGV[1]) then return 'used up' end
redis.call('INCR', KEYS[1])
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return 'ok'
