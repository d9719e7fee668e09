-- Select: one step of a walk over the living leases of a shard.
--
-- KEYS  1 due, or stuck
-- ARGV  1 ZSCAN or SSCAN  2 prefix of lease keys  3 cursor, "0" to begin
--       4 how many to look at, about  5 selection
--
-- Returns the next cursor, "0" at the end, and for each lease that is selected
-- its id, its session's, and 1 if it has marks. Of one whose record is gone or
-- garbage the session is "". A lease that was there from the beginning to the
-- end of the walk is met at least once.
local sel = selection(ARGV[5])
local page = redis.call(ARGV[1], KEYS[1], ARGV[3], 'COUNT', ARGV[4])
local step = ARGV[1] == 'ZSCAN' and 2 or 1
local out = {}
for i = 1, #page[2], step do
	local id = page[2][i]
	local lease = redis.pcall('HMGET', ARGV[2] .. id, 'marks', 'issued', 'session')
	if lease.err then lease = {false, false, false} end
	if selects(sel, lease[1], lease[2]) then
		out[#out + 1] = {id, lease[3] or '', lease[1] and 1 or 0}
	end
end
return {page[1], out}
