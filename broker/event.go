package broker

import (
	"encoding/json"
	"time"

	"github.com/brevet-dev/brevet/broker/api"
)

// An Event is one line of the audit log. Its fields are an allow-list: what is
// not here is not recorded, and none of them can hold a secret.
type Event struct {
	Time      time.Time     `json:"time"`
	Name      EventName     `json:"event"`
	RequestID string        `json:"request_id,omitempty"`
	Outcome   Outcome       `json:"outcome,omitempty"`
	Code      string        `json:"code,omitempty"`  // OAuth error code of a refusal
	Cause     string        `json:"cause,omitempty"` // the whole reason, for operators
	Remote    string        `json:"remote,omitempty"`
	Who       *Who          `json:"who,omitempty"` // nil until the token was verified
	Bound     string        `json:"jkt,omitempty"` // thumbprint of the DPoP key
	Asked     []string      `json:"asked,omitempty"`
	Session   string        `json:"session,omitempty"`
	Leases    []EventLease  `json:"leases,omitempty"`
	Context   api.Context   `json:"context,omitempty"`  // that data keys are made for, or were
	DataKey   *EventDataKey `json:"data_key,omitempty"` // that was unwrapped or rewrapped
	Found     []EventFound  `json:"found,omitempty"`    // where values of a lease were in the output of its job, as that says
	Ring      *EventRing    `json:"ring,omitempty"`     // what the fleet changed
	Ordered   *Order        `json:"ordered,omitempty"`  // what an operator ordered
	Policies  string        `json:"policies,omitempty"` // digest of the policy set that decided
	Shadow    []string      `json:"shadow,omitempty"`   // shadow policies that would have granted
	Drift     []string      `json:"drift,omitempty"`    // names that no longer fit their ids
	Unsafe    []string      `json:"unsafe,omitempty"`   // policies without pins that granted, with their reasons

	// Undeclared are claims of the subject token that its issuer's preset does not
	// know, as the platform wrote them; of an exchange.
	Undeclared map[string]json.RawMessage `json:"undeclared,omitempty"`

	// Suppressed counts refusals like this one, before it, that were not recorded,
	// for their number.
	Suppressed int `json:"suppressed,omitempty"`
}

// An EventLease is what an event says of a lease.
type EventLease struct {
	ID           string    `json:"lease"`
	Credential   string    `json:"credential"`
	Kind         string    `json:"kind"`
	Policy       string    `json:"policy"`
	PolicyDigest string    `json:"policy_digest"`
	State        State     `json:"state"`
	Expires      time.Time `json:"expires_at"`
	Why          string    `json:"why,omitempty"`
	DataKey      string    `json:"data_key,omitempty"` // id of the data key that was made
	Order        string    `json:"order,omitempty"`    // id of the order that ended it
}

// An EventDataKey is what an event says of a wrapped data key.
type EventDataKey struct {
	ID      string    `json:"id"`
	Lease   string    `json:"lease"`             // under which it was made
	KEK     string    `json:"kek"`               // it came wrapped under
	NewKEK  string    `json:"new_kek,omitempty"` // it left wrapped under
	Issued  time.Time `json:"issued_at"`
	Expires time.Time `json:"expires_at"`
}

// An EventFound is what an event says of a value that a job printed: all of it in
// the job's own words, which [api.DecodeLeakReport] bounds.
type EventFound struct {
	Value    string  `json:"value,omitempty"`  // its name in the lease; "": any
	Output   string  `json:"output,omitempty"` // stdout or stderr; "": either
	Encoding string  `json:"encoding"`
	Count    int64   `json:"count"`
	Lines    []int64 `json:"lines,omitempty"` // the first ones
}

// An EventRing is a new version of the fleet's ring of keys.
type EventRing struct {
	Version uint64   `json:"version"`
	Digest  string   `json:"digest"`  // SHA-256 of it
	By      string   `json:"by"`      // fingerprint of the root that signed it
	Change  string   `json:"change"`  // what it changed
	Members []string `json:"members"` // fingerprints of the brokers' roots
	KEK     string   `json:"kek"`     // that wraps from now on
}

// An EventName says what happened.
type EventName string

// The events.
const (
	EventIntent     EventName = "intent"    // about to mint; the leases are pending
	EventExchange   EventName = "exchange"  // the outcome of one exchange, refused or not: exactly one each
	EventRenew      EventName = "renew"     // the outcome of one renewal
	EventLookup     EventName = "lookup"    // a session token was refused when a lease or token was asked about, with a heartbeat, or with a report of leaks
	EventRun        EventName = "run"       // the outcome of ending the leases of a run; each has a line of its own when it ends
	EventLeak       EventName = "leak"      // values of a lease were in the output of its job, as that says
	EventRevoke     EventName = "revoke"    // a lease was ended before its time
	EventExpire     EventName = "expire"    // a lease was ended by the sweeper
	EventReconcile  EventName = "reconcile" // a credential without a lease, or a lease without one, was ended
	EventStart      EventName = "start"     // the broker started
	EventStop       EventName = "stop"      // the broker stopped in good order
	EventReload     EventName = "reload"    // the policies were read again
	EventUnwrap     EventName = "unwrap"    // the outcome of unwrapping a data key: its plaintext was given out
	EventRewrap     EventName = "rewrap"    // the outcome of putting a data key under the newest KEK
	EventRingChange EventName = "ring"      // a broker took over a new version of the fleet's ring of keys
	EventOrder      EventName = "order"     // an operator gave an order about many leases; each broker has it once
)

// An Outcome says how a request ended.
type Outcome string

// The outcomes.
const (
	Granted Outcome = "granted" // done as asked
	Refused Outcome = "refused" // the caller's to fix
	Failed  Outcome = "failed"  // the broker's or a target's to fix
)

// hold notes the session and its leases.
func (e *Event) hold(s *Session) {
	e.Session, e.Bound, e.Leases = s.ID, s.KeyThumbprint, make([]EventLease, len(s.Leases))
	for i, l := range s.Leases {
		e.Leases[i] = eventLease(l)
	}
}

func eventLease(l *Lease) EventLease {
	return EventLease{
		ID: l.ID, Credential: l.Credential, Kind: l.Kind, Policy: l.Policy,
		PolicyDigest: l.PolicyDigest, State: l.State, Expires: l.Expires, Why: l.Why, DataKey: l.DataKey, Order: l.Order,
	}
}
