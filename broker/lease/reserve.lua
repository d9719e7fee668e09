-- Reserve: the replay barrier and the crash record of an exchange, in one step.
--
-- KEYS  1 replay mark  2 proof mark  3 session  4 due  5 blocks  6 marks
--       7 retry mark   8… leases
-- ARGV  1 mode (once, bind, reuse)   2 thumbprint of the DPoP key, or ""
--       3 retry key, or ""           4 proof id, or ""
--       5 ms to remember the proof   6 ms to remember the use of the token
--       7 session id                 8 ms to keep the session
--       9 ms since 1970 when the pending leases are due
--      10 now, ms since 1970        11 most uses of the token; with reuse: within
--                                      an hour
--      12 prefix of session keys    13 prefix of lease keys
--      14 record of the session     15 ids of its leases, separated by spaces
--      16 kid of the epoch key that signed the session's token
--      17 as how many uses of the token this one counts
--       then for each lease: its marks, number of its fields, then these
--
-- What Redis is to forget is given as durations: its clock may be another than
-- the brokers'.
--
-- Returns "ok", "replayed", "overused", "proof", or "blocked " and the id of the
-- block; nothing is written unless "ok".
local mode, jkt, retry, id = ARGV[1], ARGV[2], ARGV[3], ARGV[7]
local session_prefix, lease_prefix = ARGV[12], ARGV[13]

-- The same call again, after its answer got lost between Redis and the broker.
-- It writes something, so that WAIT waits for what the first wrote, too.
if redis.call('EXISTS', KEYS[3]) == 1 then
	redis.call('PEXPIRE', KEYS[3], ARGV[8])
	return 'ok'
end

local now = tonumber(ARGV[10])
local mark = redis.call('HMGET', KEYS[1], 'jkt', 'session', 'uses', 'since')
local used_by, last, uses, since = mark[1], mark[2], tonumber(mark[3] or 0), tonumber(mark[4] or now)
local replaced = retry ~= '' and redis.call('GET', KEYS[7])

if used_by and mode ~= 'reuse' then
	-- Whoever shows a used token again must hold the key it was used with. A
	-- token used without a key is spent.
	if jkt == '' or jkt ~= used_by then return 'replayed' end
end
if used_by and mode == 'once' then
	-- Only the exchange whose answer got lost may be repeated, and only while
	-- nobody has ended anything of what it issued.
	replaced = last
	local touched = redis.call('HMGET', session_prefix .. last, 'record', 'ended', 'touched')
	if not touched[1] or touched[2] or touched[3] then return 'replayed' end
end
if mode == 'reuse' and now - since >= 3600000 then uses, since = 0, now end
uses = uses + tonumber(ARGV[17])
if uses > tonumber(ARGV[11]) then return 'overused' end

local block = blocked(KEYS[5], now, function()
	local marks, at = {}, 18
	while at < #ARGV do
		marks[#marks + 1] = ARGV[at]
		at = at + tonumber(ARGV[at + 1]) + 2
	end
	return marks
end)
if block then return 'blocked ' .. block end

if ARGV[4] ~= '' and not redis.call('SET', KEYS[2], '1', 'NX', 'PX', ARGV[5]) then
	return 'proof'
end

-- What the lost answer carried ends.
local leases = replaced and redis.call('HGET', session_prefix .. replaced, 'leases')
if leases then
	redis.call('HSET', session_prefix .. replaced, 'ended', '1')
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

redis.call('HSET', KEYS[1], 'session', id, 'uses', uses, 'since', since)
if not used_by then redis.call('HSET', KEYS[1], 'jkt', jkt) end
redis.call('PEXPIRE', KEYS[1], ARGV[6])
-- A retry has something to replace as long as the session is on record.
if retry ~= '' then redis.call('SET', KEYS[7], id, 'PX', ARGV[8]) end

redis.call('HSET', KEYS[3], 'record', ARGV[14], 'leases', ARGV[15], 'epoch', ARGV[16])
redis.call('PEXPIRE', KEYS[3], ARGV[8])
local at, key = 18, 8
for lease in string.gmatch(ARGV[15], '%S+') do
	local n = tonumber(ARGV[at + 1])
	redis.call('HSET', KEYS[key], unpack(ARGV, at + 2, at + n + 1))
	redis.call('HSET', KEYS[6], lease, ARGV[at])
	redis.call('ZADD', KEYS[4], ARGV[9], lease)
	at, key = at + n + 2, key + 1
end
return 'ok'
