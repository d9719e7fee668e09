package policies

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/brevet-dev/brevet/policies/strictyaml"
)

// An Operation is what can be done with a data key.
type Operation string

// The operations. A grant that names none allows to generate.
const (
	Generate Operation = "generate" // make a new one
	Unwrap   Operation = "unwrap"   // get back the plaintext of a wrapped one
	Rewrap   Operation = "rewrap"   // get a wrapped one under the newest KEK, without seeing it
)

var operations = []string{string(Generate), string(Unwrap), string(Rewrap)}

// ErrOperation says that a policy grants a data key, but not for what was to be
// done with it.
var ErrOperation = errors.New("not allowed with this data key")

// A KeyUse says what a grant of a data key allows.
type KeyUse struct {
	Allow   []Operation       `json:"allow"`
	MaxUses int               `json:"max_uses,omitempty"` // how often one key may be unwrapped under the policy; 0: any number
	MaxAge  time.Duration     `json:"max_age,omitempty"`  // how old a key may be to be unwrapped or rewrapped, in nanoseconds; 0: as old as it may be at all
	Context map[string]string `json:"context,omitempty"`  // entries that a key's context must have; it may have more
}

// Allows reports whether op is one of those that the grant names.
func (u *KeyUse) Allows(op Operation) bool { return u != nil && slices.Contains(u.Allow, op) }

// Permits reports, as [ErrOperation], what keeps op from being done with a key
// of that age and context. A nil KeyUse permits nothing.
func (u *KeyUse) Permits(op Operation, age time.Duration, context map[string]string) error {
	switch {
	case !u.Allows(op):
		return fmt.Errorf("%w: the grant does not say allow: [%s]", ErrOperation, op)
	case u.MaxAge > 0 && age > u.MaxAge:
		return fmt.Errorf("%w: the key is %s old, and max_age is %s", ErrOperation, age.Truncate(time.Second), u.MaxAge)
	}
	for _, name := range slices.Sorted(maps.Keys(u.Context)) {
		if got, ok := context[name]; !ok || got != u.Context[name] {
			return fmt.Errorf("%w: the grant wants another context: %s must be %q", ErrOperation, name, u.Context[name])
		}
	}
	return nil
}

// keyUse compiles what a grant says about a data key.
func (c *compiler) keyUse(path strictyaml.Path, g grantEntry, limits Credential) *KeyUse {
	if !limits.DataKey {
		for _, field := range []string{"allow", "max_uses", "max_age", "context"} {
			if c.doc.Has(path.With(field)) {
				c.failKey(path.With(field), "%s is for credentials of kind data-key, and %q is none", field, g.Credential)
			}
		}
		return nil
	}
	u := &KeyUse{Allow: c.allow(path.With("allow"), g.Allow), MaxUses: g.MaxUses, MaxAge: g.MaxAge, Context: g.Context}
	if p := path.With("max_uses"); c.doc.Has(p) {
		switch {
		case g.MaxUses < 1:
			c.fail(p, "max_uses must be 1 or more; leave it out for no limit")
		case !u.Allows(Unwrap):
			c.failKey(p, "max_uses counts how often a key is unwrapped, which allow does not name")
		}
	}
	if p := path.With("max_age"); c.doc.Has(p) {
		switch {
		case !wholeSeconds(g.MaxAge):
			c.fail(p, "max_age must be whole seconds, one or more; leave it out for no limit of its own")
		case !u.Allows(Unwrap) && !u.Allows(Rewrap):
			c.failKey(p, "max_age is for keys that are unwrapped or rewrapped, and allow names neither")
		}
	}
	return u
}

func (c *compiler) allow(path strictyaml.Path, list []string) []Operation {
	if !c.doc.Has(path) {
		return []Operation{Generate}
	}
	if len(list) == 0 {
		c.fail(path, "allow is empty; a grant that allows nothing is left out")
	}
	var out []Operation
	for i, name := range list {
		switch op := Operation(name); {
		case !slices.Contains(operations, name):
			c.fail(path.With(i), "%q is not an operation; there are %s%s", name, strings.Join(operations, ", "), strictyaml.DidYouMean(name, operations))
		case slices.Contains(out, op):
			c.fail(path.With(i), "%q is there twice", name)
		default:
			out = append(out, op)
		}
	}
	slices.Sort(out)
	return out
}
