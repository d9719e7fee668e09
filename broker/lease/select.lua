-- Select: one step of a walk over the marks of a shard's living leases.
--
-- KEYS  1 marks
-- ARGV  1 cursor, "0" to begin  2 how many to look at, about  3 selection
--
-- Returns the next cursor, "0" at the end, the ids that are selected, and the
-- node, to which alone the cursor means something; "" if there is one step. A
-- lease that was there from the beginning to the end of the walk is met at least
-- once.
local sel = selection(ARGV[3])
local page = redis.call('HSCAN', KEYS[1], ARGV[1], 'COUNT', ARGV[2])
local out = {}
for i = 1, #page[2], 2 do
	if selects(sel, page[2][i + 1]) then out[#out + 1] = page[2][i] end
end
return {page[1], out, (ARGV[1] ~= '0' or page[1] ~= '0') and node() or ''}
