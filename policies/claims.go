package policies

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"

	"github.com/brevet-dev/brevet/issuers/presets"
)

// Claims returns those of a token's claims that the preset declares, each with
// its type, and the sorted names of the others. Numbers in raw are
// [encoding/json.Number]. Unlike those of a verified token the claims may be
// incomplete: one that is not there, or null, is absent.
//
// The error names every claim of a wrong type.
func Claims(p *presets.Preset, raw map[string]any) (claims map[string]any, others []string, err error) {
	return readClaims(p, raw, dig)
}

// NamedClaims is [Claims] for what is no token: a claim that tokens have inside
// of an object is looked for under the name that the preset gives it, too, as
// the audit log and people have it.
func NamedClaims(p *presets.Preset, raw map[string]any) (claims map[string]any, others []string, err error) {
	return readClaims(p, raw, func(raw map[string]any, name string, path []string) (any, string) {
		if v, ok := raw[name]; ok {
			return v, name
		}
		return dig(raw, name, path)
	})
}

// readClaims reads each claim where find says that it is: its value, nil for
// none, and the name at the top that this is below.
func readClaims(p *presets.Preset, raw map[string]any, find func(raw map[string]any, name string, path []string) (any, string)) (claims map[string]any, others []string, err error) {
	claims = map[string]any{}
	used := map[string]bool{}
	var wrong []string
	for _, name := range slices.Sorted(maps.Keys(p.Claims)) {
		decl := p.Claims[name]
		v, top := find(raw, name, decl.Path)
		if used[top] = true; v == nil {
			continue
		}
		typed, ok := typedJSON(v, decl.Type)
		if !ok {
			wrong = append(wrong, fmt.Sprintf("claim %s must be %s", name, typeName(decl.Type)))
			continue
		}
		claims[name] = typed
	}
	for _, name := range slices.Sorted(maps.Keys(raw)) {
		if !used[name] {
			others = append(others, name)
		}
	}
	if len(wrong) > 0 {
		return nil, nil, fmt.Errorf("reading claims: %s", joinAnd(wrong))
	}
	return claims, others, nil
}

// dig finds a claim where tokens have it.
func dig(raw map[string]any, name string, path []string) (any, string) {
	if len(path) == 0 {
		return raw[name], name
	}
	var at any = raw
	for _, step := range path {
		object, _ := at.(map[string]any)
		at = object[step]
	}
	return at, path[0]
}

// typedJSON returns v as an identity has it. It never casts.
func typedJSON(v any, t presets.Type) (any, bool) {
	switch v := v.(type) {
	case json.Number:
		n, err := v.Int64()
		return n, err == nil && t == presets.Int
	case []any:
		list := []string{}
		for _, item := range v {
			s, ok := item.(string)
			if !ok {
				return nil, false
			}
			list = append(list, s)
		}
		return list, t == presets.StringList
	}
	return v, hasType(v, t)
}

// joinAnd joins phrases as a sentence does.
func joinAnd(list []string) string {
	n := len(list)
	if n < 2 {
		return fmt.Sprint(list[0])
	}
	out := list[0]
	for _, s := range list[1 : n-1] {
		out += ", " + s
	}
	return out + " and " + list[n-1]
}
