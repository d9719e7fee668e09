-- Node: which process of Redis this is; "" if the user may not ask.
local function node()
	local info = redis.pcall('INFO', 'server')
	return type(info) == 'string' and string.match(info, 'run_id:(%x+)') or ''
end
