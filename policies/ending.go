package policies

import (
	"time"

	"github.com/brevet-dev/brevet/issuers/presets"
	"github.com/brevet-dev/brevet/policies/strictyaml"
)

// A Scope says with what a lease ends, if it did not before.
type Scope string

// The scopes.
const (
	ScopeJob Scope = ""    // its job; written "job", and the default
	ScopeRun Scope = "run" // the run or pipeline that its job is part of
)

// An OnLeak says what is done when a value of a lease was found in the output of
// its job.
type OnLeak string

// What can be done.
const (
	ReportLeak   OnLeak = ""       // it is recorded; written "report", and the default
	RevokeOnLeak OnLeak = "revoke" // all leases of its session are revoked, too
)

// The bounds of dead_man: below, one lost request and its repetition take a
// good part of it; above, a ttl says the same.
const (
	minDeadMan = 30 * time.Second
	maxDeadMan = time.Hour
)

// scope compiles with what a lease ends.
func (c *compiler) scope(path strictyaml.Path, written string) Scope {
	path = path.With("scope")
	scopes := []string{"job", string(ScopeRun)}
	switch {
	case !c.doc.Has(path) || written == "job":
	case written != string(ScopeRun):
		c.fail(path, "scope must be job or run, not %q%s", written, strictyaml.DidYouMean(written, scopes))
	case !hasRuns(c.loader.options.Issuers[c.issuer]):
		c.failKey(path, "tokens of issuer %q do not tell of a run and its project, so nothing could end with one", c.issuer)
	default:
		return ScopeRun
	}
	return ScopeJob
}

// onLeak compiles what is done when a value is found in the job's output.
func (c *compiler) onLeak(path strictyaml.Path, written string) OnLeak {
	path = path.With("on_leak")
	ways := []string{"report", string(RevokeOnLeak)}
	switch {
	case !c.doc.Has(path) || written == "report":
	case written != string(RevokeOnLeak):
		c.fail(path, "on_leak must be report or revoke, not %q%s", written, strictyaml.DidYouMean(written, ways))
	default:
		return RevokeOnLeak
	}
	return ReportLeak
}

// hasRuns reports whether tokens say which run they are of. An issuer that is
// not configured is reported elsewhere.
func hasRuns(p *presets.Preset) bool { return p == nil || p.Run != "" && p.ProjectID != "" }

// deadMan compiles how long a lease lives without a heartbeat; 0: as long as it
// lives at all.
func (c *compiler) deadMan(path strictyaml.Path, g grantEntry, scope Scope) time.Duration {
	path = path.With("dead_man")
	switch {
	case !c.doc.Has(path):
		return 0
	case !wholeSeconds(g.DeadMan) || g.DeadMan < minDeadMan || g.DeadMan > maxDeadMan:
		c.fail(path, "dead_man must be whole seconds, %s to %s; leave it out for none", short(minDeadMan), short(maxDeadMan))
	case g.TTL > 0 && g.DeadMan >= g.TTL:
		c.fail(path, "dead_man %s is not below ttl %s, which ends the lease before; lower it", short(g.DeadMan), short(g.TTL))
	case scope == ScopeRun:
		c.failKey(path, "dead_man is for leases of scope job: a job that has ended sends no heartbeats")
	}
	return g.DeadMan
}

// ending compiles both, which data keys do not have: what encrypts with one
// gives its lease back, or keeps it on purpose, without a job that runs.
func (c *compiler) ending(path strictyaml.Path, g grantEntry, limits Credential) (Scope, time.Duration) {
	scope := c.scope(path, g.Scope)
	deadMan := c.deadMan(path, g, scope)
	for _, field := range []string{"scope", "dead_man"} {
		if limits.DataKey && c.doc.Has(path.With(field)) {
			c.failKey(path.With(field), "%s is not for data keys, and %q is one", field, g.Credential)
		}
	}
	return scope, deadMan
}
