package issuers

import (
	"encoding/json"
	"maps"
	"slices"

	"github.com/brevet-dev/brevet/issuers/presets"
)

// Limits on what is kept of claims that nobody declared.
const (
	maxUndeclared      = 32      // claims
	maxUndeclaredBytes = 4 << 10 // of their JSON and names together; a token has 16 KiB at most
)

// undeclared returns the claims that p does not declare, for the audit log
// only, as JSON: of the token's members in the order of their names as many as
// fit. Of an object in which p declares something, the rest is kept.
func undeclared(claims map[string]any, p *presets.Preset) map[string]json.RawMessage {
	rest := maps.Clone(claims)
	for _, name := range append(checkedClaims(), "sub") {
		delete(rest, name)
	}
	for name, claim := range p.Claims {
		remove(rest, location(name, claim))
	}
	kept, size := make(map[string]json.RawMessage), 0
	for _, name := range slices.Sorted(maps.Keys(rest)) {
		value, err := json.Marshal(rest[name])
		if err != nil || len(kept) == maxUndeclared || size+len(name)+len(value) > maxUndeclaredBytes {
			continue
		}
		kept[name], size = value, size+len(name)+len(value)
	}
	return kept
}

// remove deletes what is at path, and the objects around it that it leaves
// empty. It changes object, and copies of what is in it.
func remove(object map[string]any, path []string) {
	name, rest := path[0], path[1:]
	if len(rest) == 0 {
		delete(object, name)
		return
	}
	inner, isObject := object[name].(map[string]any)
	if !isObject {
		return
	}
	inner = maps.Clone(inner)
	remove(inner, rest)
	object[name] = inner
	if len(inner) == 0 {
		delete(object, name)
	}
}
