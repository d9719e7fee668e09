package issuers

import (
	"encoding/json"
	"time"

	"github.com/brevet-dev/brevet/issuers/presets"
)

// An Identity is who a verified subject token says its bearer is.
type Identity struct {
	Issuer   string // the issuer's name in the configuration
	URL      string // iss
	Preset   *presets.Preset
	Subject  string         // sub: shown to people and put into tokens, never matched
	Claims   map[string]any // the declared claims that are present, as string, int64, bool or []string
	ReplayID string         // "jti:…" or "sha256:…" (of header.payload), unique within the issuer
	IssuedAt time.Time
	Expires  time.Time
	Workload Workload

	// Undeclared are other claims of the token, as JSON and only as many as fit
	// into 4 KiB. They are for the audit log: nobody said what they mean.
	Undeclared map[string]json.RawMessage
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
