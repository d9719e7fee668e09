package lease

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
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
func (k shardKeys) uses(name string) string  { return string(k) + "u:" + name }
func (k shardKeys) due() string              { return string(k) + "due" }
func (k shardKeys) stuck() string            { return string(k) + "stuck" }
func (k shardKeys) quarantine() string       { return string(k) + "quarantine" }
func (k shardKeys) blocks() string           { return string(k) + "blocks" }
func (k shardKeys) marks() string            { return string(k) + "marks" }
func (k shardKeys) quota(hash string) string { return string(k) + "q:" + hash }

// replay is hashed, because the parts of its name are a stranger's.
func (k shardKeys) replay(use broker.TokenUse) string {
	sum := sha256.Sum256([]byte(use.Issuer + "\x00" + use.ReplayID))
	return string(k) + "r:" + base64.RawURLEncoding.EncodeToString(sum[:16])
}

// retry is hashed likewise; jkt is the key's of whoever repeats.
func (k shardKeys) retry(use broker.TokenUse, jkt string) string {
	sum := sha256.Sum256([]byte(use.Issuer + "\x00" + use.ReplayID + "\x00" + jkt + "\x00" + use.RetryKey))
	return string(k) + "again:" + base64.RawURLEncoding.EncodeToString(sum[:16])
}

func leaseIDs(s *broker.Session) string {
	ids := make([]string, len(s.Leases))
	for i, l := range s.Leases {
		ids[i] = l.ID
	}
	return strings.Join(ids, " ")
}

// encodeLease returns the fields of a lease's hash. What never changes of them
// stands in the session's record, too, which is what renewals go by; here it is
// for sweepers, who end leases and have no session token.
func encodeLease(l *broker.Lease) []any {
	fields := []any{
		"state", string(l.State), "session", l.SessionID, "credential", l.Credential, "kind", l.Kind,
		"policy", l.Policy, "digest", l.PolicyDigest, "ttl", l.TTL.Milliseconds(),
		"issued", ms(l.IssuedAt), "expires", ms(l.Expires), "max", ms(l.MaxExpires),
	}
	if l.DeadMan > 0 {
		fields = append(fields, "deadman", l.DeadMan.Milliseconds())
	}
	return fields
}

// decodeLease reads a record with its handle.
func (s *Store) decodeLease(ctx context.Context, id string, f map[string]string) (*broker.Lease, error) {
	l, err := decodeFacts(id, f)
	if err != nil || f["handle"] == "" {
		return l, err
	}
	if s.sealer == nil {
		return nil, fmt.Errorf("lease %s has a sealed handle, and there is no key to open it with", id)
	}
	handle, err := s.sealer.Open(ctx, f["handle"], sealName(l))
	if err != nil {
		return nil, fmt.Errorf("opening the handle of lease %s: %w", id, err)
	}
	l.Handle = api.NewSecret(handle)
	return l, nil
}

// decodeFacts reads a record, but for its handle, that someone else may have
// written. It refuses what it does not understand.
func decodeFacts(id string, f map[string]string) (*broker.Lease, error) {
	r := record{fields: f}
	l := &broker.Lease{
		ID: id, SessionID: f["session"], Credential: f["credential"], Kind: f["kind"],
		Policy: f["policy"], PolicyDigest: f["digest"], State: broker.State(f["state"]), Why: f["why"], Unsure: f["unsure"] != "",
		Order:    f["order"],
		TTL:      time.Duration(r.int("ttl")) * time.Millisecond,
		IssuedAt: r.time("issued"), Expires: r.time("expires"), MaxExpires: r.time("max"),
	}
	if f["attempts"] != "" {
		l.Attempts = int(r.int("attempts"))
	}
	if f["deadman"] != "" {
		l.DeadMan = time.Duration(r.int("deadman")) * time.Millisecond
	}
	if f["beat"] != "" {
		l.Beat = r.time("beat")
	}
	if f["renewing"] != "" {
		l.Renewing = r.time("renewing")
	}
	if time.Until(l.Renewing) > pendingFor+clockSkew {
		return nil, fmt.Errorf("lease %q: a renewal takes longer than any may", id)
	}
	if l.Attempts < 0 || l.TTL < 0 || l.DeadMan < 0 || l.SessionID == "" || l.Credential == "" {
		return nil, fmt.Errorf("lease %q: a field is missing or out of range", id)
	}
	switch l.State {
	case broker.Pending, broker.Active, broker.Revoking, broker.Revoked, broker.Expired, broker.Stuck:
	default:
		return nil, fmt.Errorf("lease %q: unknown state %q", id, l.State)
	}
	if r.err != nil {
		return nil, fmt.Errorf("lease %q: %w", id, r.err)
	}
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
