-- Confirm: after the minting for a renewal, the lease is as it was left by
-- Extend, or ends later still. Then the mark of the renewal goes, with that of
-- the last one under way.
--
-- KEYS  1 lease  2 session
-- ARGV  1 the end in ms since 1970
--
-- Returns "ok" or "ended".
local lease = redis.call('HMGET', KEYS[1], 'state', 'expires')
if lease[1] ~= 'active' or tonumber(lease[2]) < tonumber(ARGV[1]) then return 'ended' end
if redis.call('HGET', KEYS[2], 'ended') then return 'ended' end
if redis.call('HINCRBY', KEYS[1], 'renewals', -1) <= 0 then redis.call('HDEL', KEYS[1], 'renewing', 'renewals') end
return 'ok'
