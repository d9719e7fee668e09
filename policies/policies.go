// Package policies decides which credentials a verified workload may have.
//
// A policy is a YAML document that a person wrote, with its tests beside it:
//
//	policy: shop-deploy
//	description: main of acme/shop may deploy from the production environment
//	issuer: github
//	match:                                # all must hold; a list means one of
//	  repository_id: "456"
//	  environment: production
//	  ref: {glob: "refs/heads/release/*"}
//	  event_name: [push, workflow_dispatch]
//	names: {repository: acme/shop}        # for people; a mismatch denies
//	when: claims.run_attempt == "1"       # optional condition in CEL
//	grant:
//	- {credential: deploy, ttl: 15m, max_ttl: 1h, limits: {live: 10}}
//	mode: enforce                         # or shadow: decided, never granted
//	expires: 2027-03-01                   # optional last day
//	tests:
//	- {name: main, claims: {repository_id: "456", …}, allow: [deploy]}
//
// Its match must fill the pins of its issuer's preset, unless the document says
// why it does not:
//
//	unsafe: {reason: every repository of acme may pull images}
//
// Two more kinds of document hold for a folder and what is below it. One begins
// with defaults and says what policies leave out; the other begins with
// guardrails and says what no policy may go beyond.
//
// The answer is no unless some policy says yes, and a guardrail that denies is
// part of every policy that it is for. So the order of documents means nothing,
// and an index can leave out a policy only to the caller's loss. [Load] refuses
// a folder as a whole if anything in it is in doubt; what it returns never
// changes.
package policies

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strings"
	"time"

	"github.com/brevet-dev/brevet/issuers/presets"
)

// DefaultMaxTTL is the longest that a credential may live, renewals
// included, if its configuration sets no limit: the longest session that
// AWS STS gives a role, and twice the longest job of a GitHub-hosted runner.
const DefaultMaxTTL = 12 * time.Hour

// Options say what policies may refer to. Both come from the configuration.
type Options struct {
	Issuers     map[string]*presets.Preset // by the issuer's name
	Credentials map[string]Credential      // by the credential's name

	// Sources says to keep what was read, for [Set.Lint]: it takes several times
	// the memory of the policies.
	Sources bool
}

// A Credential limits what policies may grant of one credential.
type Credential struct {
	MinTTL time.Duration // shortest ttl, 0 for none: AWS roles live 15 minutes or longer
	MaxTTL time.Duration // longest max_ttl, 0 for [DefaultMaxTTL]

	// Read says that the credential is of class read: whoever has it can change
	// nothing that matters. Only such ones are granted to runs of strangers' code.
	Read bool

	// DataKey says that the credential is a data key: only then may a grant say
	// allow, max_uses, max_age and context.
	DataKey bool

	// Needs are what the credential's templates must be filled in with.
	Needs []Need
}

func (c Credential) maxTTL() time.Duration {
	if c.MaxTTL == 0 {
		return DefaultMaxTTL
	}
	return c.MaxTTL
}

// A Set is the policies of one folder, compiled. It never changes and is safe
// for concurrent use. A nil Set grants nothing.
type Set struct {
	policies    []*policy // in the order of files, and in them of lines
	defaults    []*defaults
	guardrails  []*guardrails
	cases       []fileTest // of files, in their order
	index       index
	issuers     map[string]*presets.Preset
	credentials map[string]Credential
	digest      string
	origin      Origin
}

// Len returns the number of policies.
func (s *Set) Len() int {
	if s == nil {
		return 0
	}
	return len(s.policies)
}

// Digest names the policies in force: "sha256:" and the SHA-256, in
// hexadecimal, of the lines that sha256sum prints for the files, sorted by
// name. In the folder, if all files in it are policies:
//
//	find * -type f | LC_ALL=C sort | xargs sha256sum | sha256sum
//
// If they come from a commit, "+git:" and its id follow.
func (s *Set) Digest() string {
	if s == nil {
		return ""
	}
	return s.digest
}

// A Warning is something that operators should know of a policy in force.
type Warning struct {
	Policy  string `json:"policy"`  // its full name
	Place   string `json:"place"`   // "file:line"
	Message string `json:"message"` // what it is, and the reason that the policy gives
}

// String gives "file:line: warning: policy NAME: message".
func (w Warning) String() string {
	return fmt.Sprintf("%s: warning: policy %s: %s", w.Place, w.Policy, w.Message)
}

// Warnings returns the policies that say unsafe, in the order of files and
// lines.
func (s *Set) Warnings() []Warning {
	if s == nil {
		return nil
	}
	var list []Warning
	for _, p := range s.policies {
		if p.unsafe != "" {
			list = append(list, Warning{p.name, p.place, p.warning()})
		}
	}
	return list
}

// warning says what a policy that is unsafe lacks, and why it may.
func (p *policy) warning() string {
	return fmt.Sprintf("unsafe, it does not pin %s: %s", strings.Join(p.missing, "; "), p.unsafe)
}

func digest(data []byte) string {
	sum := sha256.Sum256(data)
	return "sha256:" + hex.EncodeToString(sum[:])
}
