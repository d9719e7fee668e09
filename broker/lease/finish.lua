-- Finish: the final state of a lease that is being ended. One that is ended
-- already stays as it is.
--
-- KEYS  1 lease  2 due  3 stuck  4 marks
-- ARGV  1 id  2 state  3 ms to keep the record
if redis.call('HGET', KEYS[1], 'state') ~= 'revoking' then return 'ok' end
redis.call('ZREM', KEYS[2], ARGV[1])
redis.call('HSET', KEYS[1], 'state', ARGV[2])
if ARGV[2] == 'stuck' then
	redis.call('SADD', KEYS[3], ARGV[1])
else
	redis.call('HDEL', KEYS[1], 'handle')
	redis.call('HDEL', KEYS[4], ARGV[1])
	redis.call('PEXPIRE', KEYS[1], ARGV[3])
end
return 'ok'
