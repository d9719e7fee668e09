package issuers

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
	Docs   string           // where the platform documents its tokens
	Claims map[string]Claim // every claim that a policy may use, besides none

	Algorithms  []string      // accepted "alg" values: RS256, ES256
	Types       []string      // accepted "typ" values, whatever their case; "" accepts a header without typ
	MaxAge      time.Duration // limit on now - iat
	MaxLifetime time.Duration // limit on exp - iat
	Replay      Replay
	RequireJTI  bool // refuse a token without jti; else its hash stands in for the id

	// MustEqual lists pairs of claims (String or Int) that contradict each
	// other where both are present and differ: such a token is refused.
	MustEqual [][2]string

	// Names of the claims that make the workload; "" where there is none.
	OwnerID, Owner, ProjectID, Project, Run, Attempt, Job, Ref, Environment, Actor, ActorID, Trigger string

	// Pull-request-like triggers, values of the claim Trigger: runs whose code
	// or input a stranger may have written. A policy grants to them only if it
	// names them.
	Untrusted []string
}

// An Identity is who a verified subject token says its bearer is.
type Identity struct {
	Issuer   string // the issuer's name in the configuration
	URL      string // iss
	Preset   *Preset
	Subject  string         // sub: shown to people and put into tokens, never matched
	Claims   map[string]any // the declared claims that are present, as string, int64, bool or []string
	ReplayID string         // "jti:…" or "sha256:…" (of header.payload), unique within the issuer
	IssuedAt time.Time
	Expires  time.Time
	Workload Workload
}

// A Workload is the part of an identity that leases are found by. A field is
// "" where the platform has no such thing.
type Workload struct {
	OwnerID     string `json:"owner_id,omitempty"`
	Owner       string `json:"owner,omitempty"`
	ProjectID   string `json:"project_id,omitempty"`
	Project     string `json:"project,omitempty"`
	Run         string `json:"run,omitempty"`
	Attempt     string `json:"attempt,omitempty"`
	Job         string `json:"job,omitempty"`
	Ref         string `json:"ref,omitempty"`
	Environment string `json:"environment,omitempty"`
	Actor       string `json:"actor,omitempty"`
	ActorID     string `json:"actor_id,omitempty"`
	Trigger     string `json:"trigger,omitempty"`
}
