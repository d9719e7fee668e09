-- Write: an order is written down, in a full Redis, too: that denies memory to
-- the first write of a script only, and this one's first needs none.
--
-- KEYS  1 orders
-- ARGV  1 how many are kept  2 the order
redis.call('XTRIM', KEYS[1], 'MAXLEN', ARGV[1])
redis.call('XADD', KEYS[1], '*', 'order', ARGV[2])
return 'ok'
