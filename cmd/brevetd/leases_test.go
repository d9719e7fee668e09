package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/base32"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/rogpeppe/go-internal/testscript"

	"github.com/brevet-dev/brevet/broker"
	"github.com/brevet-dev/brevet/broker/lease"
	"github.com/brevet-dev/brevet/issuers"
	"github.com/brevet-dev/brevet/issuers/presets"
)

func scriptStore(ts *testscript.TestScript) (*lease.Store, func() error) {
	o, err := redis.ParseURL(ts.Getenv("BREVET_TEST_REDIS"))
	ts.Check(err)
	client := redis.NewClient(o)
	return lease.New(client, nil), client.Close
}

func newTestID(kind string, shard int) string {
	raw := make([]byte, 20)
	rand.Read(raw)
	return fmt.Sprintf("%s%d-%s", kind, shard, strings.ToLower(base32.StdEncoding.WithPadding(base32.NoPadding).EncodeToString(raw)))
}

// scriptLease is the command "lease REPOSITORY-ID RUN CREDENTIAL…": a session of
// that repository with active leases, as an exchange makes it. It negates: then
// the exchange must be blocked. Their ids are in $SESSION and $LEASE, the first.
func scriptLease(ts *testscript.TestScript, blocked bool, args []string) {
	if len(args) < 3 {
		ts.Fatalf("usage: lease REPOSITORY-ID RUN CREDENTIAL…")
	}
	store, done := scriptStore(ts)
	defer done()
	use := broker.TokenUse{Issuer: "https://ci", ReplayID: rand.Text(), Mode: presets.Once, Expires: time.Now().Add(time.Minute)}
	now := time.Now()
	s := &broker.Session{
		ID: newTestID("s", use.Shard()), IssuedAt: now, Expires: now.Add(time.Hour), Epoch: "epoch-1", Policies: "sha256:set",
		Who: broker.Who{Issuer: "github", URL: "https://ci", Subject: "repo:acme/" + args[0], Workload: issuers.Workload{
			ProjectID: args[0], Project: "acme/repo-" + args[0], OwnerID: "1", Owner: "acme", Run: args[1], Actor: "alice", Environment: "production",
		}},
	}
	for _, credential := range args[2:] {
		s.Leases = append(s.Leases, &broker.Lease{
			ID: newTestID("l", use.Shard()), SessionID: s.ID, Credential: credential, Kind: "jwt", Policy: "shop", PolicyDigest: "sha256:0",
			State: broker.Pending, TTL: time.Hour, IssuedAt: now, Expires: now.Add(time.Hour).Truncate(time.Second), MaxExpires: now.Add(time.Hour).Truncate(time.Second),
		})
	}
	ts.Check(s.EncodeRecord())
	if err := store.Reserve(context.Background(), s, use); (err != nil) != blocked {
		ts.Fatalf("Reserve = %v, want blocked: %v", err, blocked)
	}
	if !blocked {
		ts.Check(store.Commit(context.Background(), s))
		ts.Setenv("SESSION", s.ID)
		ts.Setenv("LEASE", s.Leases[0].ID)
	}
}

// scriptStick is the command "stick": what is being ended fails until it is
// stuck.
func scriptStick(ts *testscript.TestScript, _ bool, _ []string) {
	store, done := scriptStore(ts)
	defer done()
	due, err := store.ClaimDue(context.Background(), time.Now())
	ts.Check(err)
	for _, l := range due {
		ts.Check(store.Finish(context.Background(), l, broker.Stuck))
	}
}

// Every attribute has a flag, and the flag says what it is.
func TestSelectorFlags(t *testing.T) {
	usage := selectorUsage()
	for _, a := range broker.Attributes() {
		if usage[a] == "" {
			t.Errorf("there is no flag --%s", a)
		}
	}
	if len(usage) != len(broker.Attributes()) {
		t.Errorf("%d flags for %d attributes", len(usage), len(broker.Attributes()))
	}
}

func TestParseSince(t *testing.T) {
	now := time.Date(2026, 11, 25, 16, 0, 0, 0, time.UTC)
	for text, want := range map[string]time.Time{
		"2h": now.Add(-2 * time.Hour), "2026-11-25T15:00:00Z": now.Add(-time.Hour), "2026-11-25T15:00:00+01:00": now.Add(-2 * time.Hour),
		"": {}, "-2h": {}, "0s": {}, "yesterday": {}, "2026-11-25": {},
	} {
		got, err := parseSince(text, now)
		if !got.Equal(want) || (err == nil) == want.IsZero() {
			t.Errorf("parseSince(%q) = %s, %v; want %s", text, got, err, want)
		}
	}
}

// What somebody wrote to Redis, or a target said, does not move the cursor of
// an operator's terminal.
func TestHostileWordsOnATerminal(t *testing.T) {
	const evil = "x\x1b[2J\r"
	var out bytes.Buffer
	lines := []leaseLine{{ID: evil, Credential: evil, Policy: evil, Who: &holder{Repository: evil, Run: evil}}}
	if err := showList(&out, lines, false); err != nil {
		t.Fatal(err)
	}
	r := newRadius(broker.Selector{All: true})
	r.add(lease.Found{Lease: &broker.Lease{Credential: evil, State: broker.Active}, Session: &broker.Session{Who: broker.Who{Issuer: evil}}})
	if err := r.show(&out); err != nil {
		t.Fatal(err)
	}
	f := broker.Finding{Credential: evil, Lease: evil, Name: evil, State: evil, Problem: evil}
	if err := printReport(&out, &broker.Report{Orphans: []broker.Finding{f}, Missing: []broker.Finding{f}, Problems: []string{evil}}); err != nil {
		t.Fatal(err)
	}
	if strings.ContainsAny(out.String(), "\x1b\r") {
		t.Errorf("printed %q", out.String())
	}
}
