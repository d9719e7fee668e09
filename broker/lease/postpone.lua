-- Postpone: a lease that is being ended is due again later.
--
-- KEYS  1 lease  2 due
-- ARGV  1 id  2 when, ms since 1970  3 how many failed attempts that were
if redis.call('HGET', KEYS[1], 'state') ~= 'revoking' then return 'ok' end
-- What ends leases works in a full Redis, too: it denies memory to the first
-- write of a script only, and this is one that needs none.
redis.call('ZREM', KEYS[2], '')
redis.call('HINCRBY', KEYS[1], 'attempts', ARGV[3])
redis.call('ZADD', KEYS[2], ARGV[2], ARGV[1])
return 'ok'
