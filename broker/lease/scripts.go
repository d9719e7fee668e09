package lease

import (
	_ "embed" // for the scripts

	"github.com/redis/go-redis/v9"
)

// selectionLua, blockedLua, failedLua and nodeLua are functions that other scripts begin with.
//
//go:embed selection.lua
var selectionLua string

//go:embed blocked.lua
var blockedLua string

//go:embed failed.lua
var failedLua string

//go:embed reserve.lua
var reserveLua string

//go:embed commit.lua
var commitLua string

//go:embed extend.lua
var extendLua string

//go:embed heartbeat.lua
var heartbeatLua string

//go:embed confirm.lua
var confirmLua string

//go:embed quarantine.lua
var quarantineLua string

//go:embed end.lua
var endLua string

//go:embed claim.lua
var claimLua string

//go:embed finish.lua
var finishLua string

//go:embed count.lua
var countLua string

//go:embed reseal.lua
var resealLua string

//go:embed postpone.lua
var postponeLua string

//go:embed select.lua
var selectLua string

//go:embed order.lua
var orderLua string

//go:embed retry.lua
var retryLua string

//go:embed block.lua
var blockLua string

//go:embed quota.lua
var quotaLua string

//go:embed node.lua
var nodeLua string

//go:embed take.lua
var takeLua string

//go:embed write.lua
var writeLua string

type scripts struct {
	reserve, commit, extend, confirm, end, claim, finish, postpone, quarantine, count, reseal *redis.Script
	sel, order, retry, block, write, quota, heartbeat, node, take                             *redis.Script
}

func newScripts() scripts {
	return scripts{
		reserve: redis.NewScript(selectionLua + blockedLua + reserveLua), commit: redis.NewScript(commitLua),
		extend: redis.NewScript(selectionLua + blockedLua + extendLua), end: redis.NewScript(endLua),
		claim: redis.NewScript(claimLua), finish: redis.NewScript(finishLua),
		postpone: redis.NewScript(postponeLua), confirm: redis.NewScript(confirmLua),
		quarantine: redis.NewScript(quarantineLua), count: redis.NewScript(countLua),
		heartbeat: redis.NewScript(heartbeatLua),
		reseal:    redis.NewScript(resealLua), sel: redis.NewScript(selectionLua + nodeLua + selectLua),
		order: redis.NewScript(failedLua + orderLua), retry: redis.NewScript(failedLua + retryLua),
		block: redis.NewScript(blockLua), write: redis.NewScript(writeLua), quota: redis.NewScript(quotaLua), node: redis.NewScript(nodeLua + "return node()"),
		take: redis.NewScript(takeLua),
	}
}
