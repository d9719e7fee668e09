package broker

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/brevet-dev/brevet/broker/api"
	"github.com/brevet-dev/brevet/policies"
)

// A record is the part of a session that never changes: who it is for and what
// was granted. It is encoded once, stored as it is, and its hash stands in the
// session token, which the epoch key signs. So whoever writes to the store can
// drop a session or revive a lease, and cannot make it another's, or another
// credential's, or longer.
type record struct {
	Who     Who         `json:"who"`
	Key     string      `json:"jkt,omitempty"`
	Request string      `json:"request"`
	Issued  int64       `json:"issued"`  // ms since 1970, as all times here
	Expires int64       `json:"expires"` // of the session
	Context api.Context `json:"context,omitempty"`
	Leases  []terms     `json:"leases"`
	Set     string      `json:"policies,omitempty"` // none in records of before
}

// terms are what was granted with one lease.
type terms struct {
	ID           string           `json:"id"`
	Credential   string           `json:"credential"`
	Kind         string           `json:"kind"`
	Policy       string           `json:"policy"`
	PolicyDigest string           `json:"digest"`
	TTL          int64            `json:"ttl"` // ms
	MaxExpires   int64            `json:"max"`
	KeyUse       *policies.KeyUse `json:"key_use,omitempty"`
	Scope        policies.Scope   `json:"scope,omitempty"`
	DeadMan      int64            `json:"dead_man,omitempty"` // ms
	OnLeak       policies.OnLeak  `json:"on_leak,omitempty"`
}

// EncodeRecord sets s.Record from the other fields.
func (s *Session) EncodeRecord() error {
	r := record{
		Who: s.Who, Key: s.KeyThumbprint, Request: s.RequestID, Issued: s.IssuedAt.UnixMilli(),
		Expires: s.Expires.UnixMilli(), Context: s.Context, Leases: make([]terms, len(s.Leases)), Set: s.Policies,
	}
	for i, l := range s.Leases {
		r.Leases[i] = terms{
			ID: l.ID, Credential: l.Credential, Kind: l.Kind, Policy: l.Policy, PolicyDigest: l.PolicyDigest,
			TTL: l.TTL.Milliseconds(), MaxExpires: l.MaxExpires.UnixMilli(), KeyUse: l.KeyUse, Scope: l.Scope, DeadMan: l.DeadMan.Milliseconds(),
			OnLeak: l.OnLeak,
		}
	}
	var err error
	if s.Record, err = json.Marshal(r); err != nil {
		return fmt.Errorf("encoding the record of session %s: %w", s.ID, err)
	}
	return nil
}

// DecodeSession reads what [Session.EncodeRecord] made. The leases have no
// State, Expires or Handle: a store adds them. That the record is the one the
// broker made is for whoever has the session token to check.
func DecodeSession(id string, encoded []byte) (*Session, error) {
	var r record
	decoder := json.NewDecoder(bytes.NewReader(encoded))
	decoder.UseNumber() // ids may exceed what a float64 holds
	if err := decoder.Decode(&r); err != nil {
		return nil, fmt.Errorf("session %s: its record is not readable", id)
	}
	s := &Session{
		ID: id, RequestID: r.Request, Who: r.Who, KeyThumbprint: r.Key, IssuedAt: time.UnixMilli(r.Issued),
		Expires: time.UnixMilli(r.Expires), Context: r.Context, Policies: r.Set, Record: encoded, Leases: make([]*Lease, len(r.Leases)),
	}
	for i, t := range r.Leases {
		if _, err := ShardOf('l', t.ID); err != nil {
			return nil, errors.New("session " + id + ": its record names a lease that is none")
		}
		s.Leases[i] = &Lease{
			ID: t.ID, SessionID: id, Credential: t.Credential, Kind: t.Kind, Policy: t.Policy, PolicyDigest: t.PolicyDigest,
			TTL: time.Duration(t.TTL) * time.Millisecond, IssuedAt: s.IssuedAt, MaxExpires: time.UnixMilli(t.MaxExpires), KeyUse: t.KeyUse,
			Scope: t.Scope, DeadMan: time.Duration(t.DeadMan) * time.Millisecond, OnLeak: t.OnLeak,
		}
	}
	return s, nil
}

// recordHash is what the session token holds of s.Record.
func (s *Session) recordHash() string {
	sum := sha256.Sum256(s.Record)
	return base64.RawURLEncoding.EncodeToString(sum[:])
}
