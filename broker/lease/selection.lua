-- Selection: what scripts that find leases, or block them, begin with.
--
-- A selection is text: the time since when leases were issued, in ms since
-- 1970, then " POSITION:HEX" for each part of a lease's marks that must be so.
-- Marks are the 13 digits of the ms when it was issued, and what marks.go adds.
-- What cannot be decided counts as selected: marks of an older version may be
-- shorter. Whoever ends leases decides those by their record.
local function selection(text)
	local since, rest = string.match(text, '^(%d+)(.*)$')
	if not since then return nil end
	local parts = {}
	for at, hex in string.gmatch(rest, ' (%d+):(%x+)') do
		local bytes = string.gsub(hex, '%x%x', function(b) return string.char(tonumber(b, 16)) end)
		parts[#parts + 1] = {tonumber(at), tonumber(at) + #bytes - 1, bytes}
	end
	return {since = tonumber(since), parts = parts}
end

local function selects(sel, marks)
	for _, p in ipairs(sel.parts) do
		if #marks >= p[2] and string.sub(marks, p[1], p[2]) ~= p[3] then return false end
	end
	return sel.since == 0 or (tonumber(string.sub(marks, 1, 13)) or sel.since) >= sel.since
end
