-- Take: what an operator asked for; "" if it is the fleet's turn; else nothing.
--
-- KEYS  1 what was asked for  2 is there as long as it is nobody's turn
-- ARGV  1 ms until the next turn
local asked = redis.call('LPOP', KEYS[1])
if asked then return asked end
return redis.call('SET', KEYS[2], '1', 'NX', 'PX', ARGV[1]) and ''
