package lease

import (
	_ "embed" // for the scripts

	"github.com/redis/go-redis/v9"
)

//go:embed reserve.lua
var reserveLua string

//go:embed commit.lua
var commitLua string

//go:embed extend.lua
var extendLua string

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

type scripts struct {
	reserve, commit, extend, confirm, end, claim, finish, postpone, quarantine, count, reseal *redis.Script
}

func newScripts() scripts {
	return scripts{
		reserve: redis.NewScript(reserveLua), commit: redis.NewScript(commitLua),
		extend: redis.NewScript(extendLua), end: redis.NewScript(endLua),
		claim: redis.NewScript(claimLua), finish: redis.NewScript(finishLua),
		postpone: redis.NewScript(postponeLua), confirm: redis.NewScript(confirmLua),
		quarantine: redis.NewScript(quarantineLua), count: redis.NewScript(countLua),
		reseal: redis.NewScript(resealLua),
	}
}
