-- Blocked: returns the id of a block that selects one of the leases of which
-- marks() returns the marks, or nil. A block is "UNTIL SELECTION", a line break,
-- and the whole of it for people. One that cannot be read blocks everything:
-- unsure means no. One that ended an hour ago is removed: clocks differ by less.
local function blocked(key, now, marks)
	local blocks = redis.call('HGETALL', key)
	if #blocks == 0 then return nil end
	local leases = marks()
	for i = 1, #blocks, 2 do
		local id = blocks[i]
		local ends, text = string.match(blocks[i + 1], '^(%d+) ([^\n]*)\n')
		local sel = ends and selection(text)
		if not sel then return id end
		if tonumber(ends) > now then
			for _, lease in ipairs(leases) do
				if selects(sel, lease) then return id end
			end
		elseif tonumber(ends) + 3600000 < now then
			redis.call('HDEL', key, id)
		end
	end
end
