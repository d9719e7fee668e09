-- Node: which process of Redis this is; "" if the user may not ask.
--
-- KEYS  1 any of the shard
local info = redis.pcall('INFO', 'server')
return type(info) == 'string' and string.match(info, 'run_id:(%x+)') or ''
