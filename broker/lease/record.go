package lease

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/brevet-dev/brevet/broker"
	"github.com/brevet-dev/brevet/broker/api"
)

// shardKeys names the keys of one shard. {17} is the hash tag that Redis
// Cluster places keys by.
type shardKeys string

func keysOf(shard int) shardKeys {
	return shardKeys("brevet:{" + strconv.Itoa(shard) + "}:")
}

func keysOfSession(id string) (shardKeys, error) {
	shard, err := broker.ShardOf('s', id)
	return keysOf(shard), err
}

func keysOfLease(id string) (shardKeys, error) {
	shard, err := broker.ShardOf('l', id)
	return keysOf(shard), err
}

func (k shardKeys) session(id string) string { return string(k) + "s:" + id }
func (k shardKeys) lease(id string) string   { return string(k) + "l:" + id }
func (k shardKeys) proof(id string) string   { return string(k) + "p:" + id }
func (k shardKeys) due() string              { return string(k) + "due" }
func (k shardKeys) stuck() string            { return string(k) + "stuck" }
func (k shardKeys) quarantine() string       { return string(k) + "quarantine" }

// replay is hashed, because the parts of its name are a stranger's.
func (k shardKeys) replay(use broker.TokenUse) string {
	sum := sha256.Sum256([]byte(use.Issuer + "\x00" + use.ReplayID))
	return string(k) + "r:" + base64.RawURLEncoding.EncodeToString(sum[:16])
}

func encodeSession(s *broker.Session) ([]any, error) {
	who, err := json.Marshal(s.Who)
	if err != nil {
		return nil, fmt.Errorf("encoding the identity of session %s: %w", s.ID, err)
	}
	ids := make([]string, len(s.Leases))
	for i, l := range s.Leases {
		ids[i] = l.ID
	}
	return []any{
		"who", string(who), "jkt", s.KeyThumbprint, "request", s.RequestID,
		"issued", ms(s.IssuedAt), "expires", ms(s.Expires), "leases", strings.Join(ids, " "),
	}, nil
}

func decodeSession(id string, f map[string]string) (*broker.Session, []string, error) {
	r := record{fields: f}
	s := &broker.Session{
		ID: id, RequestID: f["request"], KeyThumbprint: f["jkt"], Ended: f["ended"] != "",
		IssuedAt: r.time("issued"), Expires: r.time("expires"),
	}
	if r.err != nil {
		return nil, nil, fmt.Errorf("session %s: %w", id, r.err)
	}
	decoder := json.NewDecoder(strings.NewReader(f["who"]))
	decoder.UseNumber() // ids may exceed what a float64 holds
	if err := decoder.Decode(&s.Who); err != nil {
		return nil, nil, fmt.Errorf("session %s: its identity is not readable: %w", id, err)
	}
	return s, strings.Fields(f["leases"]), nil
}

func encodeLease(l *broker.Lease) []any {
	return []any{
		"state", string(l.State), "session", l.SessionID, "credential", l.Credential, "kind", l.Kind,
		"policy", l.Policy, "digest", l.PolicyDigest, "ttl", l.TTL.Milliseconds(),
		"issued", ms(l.IssuedAt), "expires", ms(l.Expires), "max", ms(l.MaxExpires),
	}
}

// decodeLease reads a record that someone else may have written. It refuses
// what it does not understand.
func (s *Store) decodeLease(id string, f map[string]string) (*broker.Lease, error) {
	r := record{fields: f}
	l := &broker.Lease{
		ID: id, SessionID: f["session"], Credential: f["credential"], Kind: f["kind"],
		Policy: f["policy"], PolicyDigest: f["digest"], State: broker.State(f["state"]), Why: f["why"], Unsure: f["unsure"] != "",
		TTL:      time.Duration(r.int("ttl")) * time.Millisecond,
		IssuedAt: r.time("issued"), Expires: r.time("expires"), MaxExpires: r.time("max"),
	}
	if f["attempts"] != "" {
		l.Attempts = int(r.int("attempts"))
	}
	switch l.State {
	case broker.Pending, broker.Active, broker.Revoking, broker.Revoked, broker.Expired, broker.Stuck:
	default:
		return nil, fmt.Errorf("lease %q: unknown state %q", id, l.State)
	}
	if r.err != nil {
		return nil, fmt.Errorf("lease %q: %w", id, r.err)
	}
	if f["handle"] == "" {
		return l, nil
	}
	if s.sealer == nil {
		return nil, fmt.Errorf("lease %s has a sealed handle, and there is no key to open it with", id)
	}
	handle, err := s.sealer.Open(f["handle"], id)
	if err != nil {
		return nil, fmt.Errorf("opening the handle of lease %s: %w", id, err)
	}
	l.Handle = api.NewSecret(handle)
	return l, nil
}

// A record reads fields and keeps the first error.
type record struct {
	fields map[string]string
	err    error
}

func (r *record) int(name string) int64 {
	n, err := strconv.ParseInt(r.fields[name], 10, 64)
	if err != nil && r.err == nil {
		r.err = fmt.Errorf("field %s is not a number", name)
	}
	return n
}

func (r *record) time(name string) time.Time { return time.UnixMilli(r.int(name)) }
