-- Block: sets a block, in a full Redis, too: that denies memory to the first
-- write of a script only, and this one's first needs none.
--
-- KEYS  1 blocks
-- ARGV  1 id  2 the block
redis.call('HDEL', KEYS[1], '')
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
return 'ok'
