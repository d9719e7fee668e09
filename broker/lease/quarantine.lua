-- Quarantine: a record that cannot be read is put where an operator finds it,
-- and is not claimed again.
--
-- KEYS  1 due  2 quarantine
-- ARGV  1 id
redis.call('ZREM', KEYS[1], ARGV[1])
redis.call('SADD', KEYS[2], ARGV[1])
return 'ok'
