-- Reseal: a handle under another key, unless it changed or went meanwhile.
--
-- KEYS  1 lease
-- ARGV  1 the handle as it was  2 as it is to be
--
-- Returns 1 or 0.
if redis.call('HGET', KEYS[1], 'handle') ~= ARGV[1] then return 0 end
redis.call('HSET', KEYS[1], 'handle', ARGV[2])
return 1
