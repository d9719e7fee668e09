-- Failed: whether a redis.pcall failed for another reason than what somebody put
-- there, such as a lease of a slot on the move that is on the new node already.
local function failed(answer)
	return type(answer) == 'table' and answer.err and not string.find(answer.err, 'WRONGTYPE', 1, true)
end
