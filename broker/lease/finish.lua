-- Finish: the final state of a lease.
--
-- KEYS  1 lease  2 due  3 stuck
-- ARGV  1 id  2 state  3 ms to keep the record
if redis.call('EXISTS', KEYS[1]) == 0 then return 'ok' end
redis.call('ZREM', KEYS[2], ARGV[1])
redis.call('HSET', KEYS[1], 'state', ARGV[2])
if ARGV[2] == 'stuck' then
	redis.call('SADD', KEYS[3], ARGV[1])
else
	redis.call('HDEL', KEYS[1], 'handle')
	redis.call('PEXPIRE', KEYS[1], ARGV[3])
end
return 'ok'
