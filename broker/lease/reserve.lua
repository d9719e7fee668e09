-- Reserve: the replay barrier and the crash record of an exchange, in one step.
--
-- KEYS  1 replay mark  2 proof mark  3 session  4 due  5… leases
-- ARGV  1 mode (once, bind, reuse)   2 thumbprint of the DPoP key, or ""
--       3 retry key, or ""           4 proof id, or ""
--       5 ms to remember the proof   6 ms since 1970 to keep the replay mark until
--       7 session id                 8 ms since 1970 to keep the session until
--       9 ms since 1970 when the pending leases are due
--      10 now, ms since 1970        11 number of session fields, then these,
--       then for each lease: id, number of its fields, then these
--
-- Returns "ok", "replayed" or "proof"; nothing is written unless "ok".
local mode, jkt, retry, id = ARGV[1], ARGV[2], ARGV[3], ARGV[7]

-- The same call again, after its answer got lost between Redis and the broker.
if redis.call('EXISTS', KEYS[3]) == 1 then return 'ok' end

local seen = redis.call('HMGET', KEYS[1], 'jkt', 'session')
local used_jkt, replaced = seen[1], nil
if used_jkt then
	-- Whoever shows a used token again must hold the key it was used with.
	-- A token used without a key is spent.
	if mode ~= 'reuse' and (jkt == '' or jkt ~= used_jkt) then return 'replayed' end
	if retry ~= '' then replaced = redis.call('HGET', KEYS[1], 'retry:' .. jkt .. ':' .. retry) end
	if mode == 'once' then
		-- Only the exchange whose answer got lost may be repeated, and only
		-- while nobody has ended what it issued.
		replaced = seen[2]
		local prefix = string.sub(KEYS[3], 1, -1 - string.len(id))
		if redis.call('HGET', prefix .. replaced, 'ended') then return 'replayed' end
	end
end

if ARGV[4] ~= '' and not redis.call('SET', KEYS[2], '1', 'NX', 'PX', ARGV[5]) then
	return 'proof'
end

if replaced then
	local prefix = string.sub(KEYS[3], 1, -1 - string.len(id))
	local leases = redis.call('HGET', prefix .. replaced, 'leases')
	if leases then
		redis.call('HSET', prefix .. replaced, 'ended', '1')
		local lease_prefix = string.gsub(prefix, 's:$', 'l:')
		for lease in string.gmatch(leases, '%S+') do
			local key = lease_prefix .. lease
			local state = redis.call('HGET', key, 'state')
			if state == 'pending' or state == 'active' then
				redis.call('HSET', key, 'state', 'revoking', 'why', 'replaced')
				if state == 'pending' then redis.call('HSET', key, 'unsure', '1') end
				redis.call('ZADD', KEYS[4], ARGV[10], lease)
			end
		end
	end
end

redis.call('HSET', KEYS[1], 'session', id)
if not used_jkt then redis.call('HSET', KEYS[1], 'jkt', jkt) end
if retry ~= '' then redis.call('HSET', KEYS[1], 'retry:' .. jkt .. ':' .. retry, id) end
redis.call('HINCRBY', KEYS[1], 'uses', 1)
redis.call('PEXPIREAT', KEYS[1], ARGV[6])

local at = 11
local function fields()
	local n = tonumber(ARGV[at])
	local out = {}
	for i = 1, n do out[i] = ARGV[at + i] end
	at = at + n + 1
	return out
end

redis.call('HSET', KEYS[3], unpack(fields()))
redis.call('PEXPIREAT', KEYS[3], ARGV[8])
for k = 5, #KEYS do
	local lease = ARGV[at]
	at = at + 1
	redis.call('HSET', KEYS[k], unpack(fields()))
	redis.call('ZADD', KEYS[4], ARGV[9], lease)
end
return 'ok'
