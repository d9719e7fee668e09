// Package presets says what is known of the platforms whose tokens the broker
// accepts: which claims there are, of which type, who decides about their
// values, and what a policy must ask of them. It is data; it imports nothing
// that verifies or fetches, so that a program inside a job can have it too.
//
// Each platform has a file of its own, with where its facts come from.
package presets

import "time"

// A Type is the JSON type that a claim must have. A claim of another type is
// an error, never a cast: GitHub sends ids as strings, GitLab's runner_id is a
// number, and "true" is not true.
type Type string

// The types a preset can declare.
const (
	String     Type = "string"
	Int        Type = "int"  // a whole number within int64
	Bool       Type = "bool" // a JSON boolean, not "true"
	StringList Type = "string_list"
)

// A Kind says who decides about a claim's value, and so what it is worth in a
// policy.
type Kind string

// The kinds of claim.
const (
	Immutable Kind = "immutable" // an id that is never given to another
	Mutable   Kind = "mutable"   // a name: renamed, deleted, registered again by someone else
	Attacker  Kind = "attacker"  // chosen by whoever pushes, names a branch or edits the pipeline
	Platform  Kind = "platform"  // set by the platform
)

// A Claim declares one claim of a preset.
type Claim struct {
	Type     Type   `yaml:"type"`
	Kind     Kind   `yaml:"kind"`
	Optional bool   `yaml:"optional"` // may be absent or null; a policy that pins it then does not match
	Doc      string `yaml:"doc"`      // one line for people

	// Path is where the claim is in the token, from the outside in, if it is
	// inside of an object: its name is then ours. Default: at the top, under its
	// name.
	Path []string `yaml:"path"`

	// Values are all that the platform is known to send, if that is a closed
	// list. Tokens are not held to it; policies are asked whether they mean it.
	Values []string `yaml:"values"`

	// Unverified says that no documentation of the platform's and no real token
	// was seen for it. It is then optional, and fills no pin by itself.
	Unverified bool `yaml:"-"`
}

// A Replay mode says how often a subject token may be shown (docs/http.md).
type Replay string

// The replay modes.
const (
	Once  Replay = "once"  // the first exchange burns it
	Bind  Replay = "bind"  // the first exchange binds it to the client's DPoP key
	Reuse Replay = "reuse" // any number of exchanges, each with a DPoP key
)

// A Preset is what is known of a CI platform's tokens: data, not a type.
type Preset struct {
	Name   string
	Title  string           // the platform's name, for people
	Docs   string           // where the platform documents its tokens
	Claims map[string]Claim // every claim that a policy may use, by name

	// URLs are what its issuers look like, as patterns (see [Fit]). Where a part
	// has the name of a declared claim, the claim must be equal to it. The first
	// is the default if it has no parts.
	URLs []string

	// DefaultAudiences are the audiences, as patterns, that tokens carry if a job
	// asks for none, or that everybody asks for: whoever is shown such a token
	// can show it to us. Parts of the issuer's URL stand for what they are there,
	// {host} for its host and {url} for all of it.
	DefaultAudiences []string

	// KeysHosts are the hosts, besides the issuer's own, on which the platform
	// keeps its keys: its discovery document names them.
	KeysHosts []string

	// Subjects are the forms of sub, as patterns; a token with another is
	// refused. A part that has the name of a declared claim must be equal to it.
	// Empty: sub is not looked at, since most platforms let it be configured.
	Subjects []string

	Algorithms  []string      // accepted "alg" values
	Types       []string      // accepted "typ" values, whatever their case; "" accepts a header without typ
	MaxAge      time.Duration // limit on now - iat
	MaxLifetime time.Duration // limit on exp - iat
	Replay      Replay
	RequireJTI  bool // refuse a token without jti; else its hash stands in for the id

	// MustEqual lists pairs of claims (String or Int) that contradict each
	// other where both are present and differ: such a token is refused.
	MustEqual [][2]string

	// OneOf lists groups of claims of which a token must have exactly one.
	OneOf [][]string

	// Never lists paths, from the outside in, at and below which nothing may be
	// declared: the bearer writes what is there.
	Never [][]string

	// Names of the claims that make the workload; "" where there is none.
	OwnerID, Owner, ProjectID, Project, Run, Attempt, Job, Ref, Environment, Actor, ActorID, Trigger string

	// Pins are what the match of every policy must hold.
	Pins []Pin

	// Risks are runs whose code or input a stranger may have written. A policy
	// grants to them only if its match names the value, and then only
	// credentials of class read.
	Risks []Risk
}

// A Pin is one thing that a policy must say about the tokens it holds for, in
// one of several ways.
type Pin struct {
	Name  string // for people: the project; a protected ref or an environment
	AnyOf []Gate
}

// A Gate is one way to fill a pin: all of it must be in match.
type Gate []Hold

// A Hold is a claim that match must name.
type Hold struct {
	Claim string
	Value string // the one value that match must give; "" for any
	Exact bool   // no pattern will do
}

// A Risk is a claim with the values that make a run one of a stranger.
type Risk struct {
	Claim  string
	Values []string // exact, "true" for a boolean, or with * as in a policy's glob, and ** at the end for all that follows
	Why    string   // one line for people: who writes what runs then
}
