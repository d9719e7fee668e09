package audit_test

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/brevet-dev/brevet/broker"
	"github.com/brevet-dev/brevet/broker/audit"
	"github.com/brevet-dev/brevet/issuers"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// mac stands for the epoch key's signature: what has it, the broker wrote.
func mac(typ, payload string) string {
	m := hmac.New(sha256.New, []byte("the broker's key"))
	m.Write([]byte(typ + "\x00" + payload))
	return base64.RawURLEncoding.EncodeToString(m.Sum(nil))
}

func sign(_ context.Context, typ string, claims any) (string, error) {
	body, err := json.Marshal(claims)
	payload := base64.RawURLEncoding.EncodeToString(body)
	return payload + "." + mac(typ, payload), err
}

func check(typ, token string, claims any) error {
	payload, sum, _ := strings.Cut(token, ".")
	if !hmac.Equal([]byte(sum), []byte(mac(typ, payload))) {
		return errors.New("not signed")
	}
	body, err := base64.RawURLEncoding.DecodeString(payload)
	if err != nil {
		return err
	}
	return json.Unmarshal(body, claims)
}

func open(t testing.TB, path string) *audit.Log {
	t.Helper()
	l, err := audit.Open(path, audit.Options{Sign: sign})
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func closeLog(t testing.TB, l *audit.Log) {
	t.Helper()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
}

func event(id string) *broker.Event {
	return &broker.Event{Time: time.Now(), Name: broker.EventExchange, RequestID: id, Outcome: broker.Granted}
}

func record(t testing.TB, l *audit.Log, ids ...string) {
	t.Helper()
	for _, id := range ids {
		if err := l.Record(t.Context(), event(id)); err != nil {
			t.Fatal(err)
		}
	}
}

func read(t testing.TB, path string) []byte {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func verify(t testing.TB, data []byte) audit.Report {
	t.Helper()
	r, err := audit.Verify(bytes.NewReader(data), check)
	if err != nil {
		t.Fatalf("%v in\n%.4000s", err, data)
	}
	return r
}

// requests returns the request ids in a log, in their order.
func requests(t testing.TB, data []byte) []string {
	t.Helper()
	var ids []string
	for raw := range bytes.Lines(data) {
		var line struct {
			RequestID string `json:"request_id"`
		}
		if err := json.Unmarshal(raw, &line); err != nil {
			t.Fatal(err)
		}
		if line.RequestID != "" {
			ids = append(ids, line.RequestID)
		}
	}
	return ids
}

// TestFormat pins the bytes of a log: order of members, times, hashes.
func TestFormat(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "audit.jsonl")
		l := open(t, path)
		record(t, l, "first")
		zone := time.FixedZone("elsewhere", 3600)
		whole := &broker.Event{
			Time: time.Now().In(zone), Name: broker.EventExchange, RequestID: "second", Outcome: broker.Refused, Code: "invalid_request",
			Cause: "tabs\t, lines\n{\"seq\":4}, \x1b[31m, \xff, <&>, \u2028 and \"quotes\"", Remote: "192.0.2.1:4711",
			Who: &broker.Who{
				Issuer: "github", URL: "https://token.actions.githubusercontent.com", Subject: "repo:acme/shop:ref:refs/heads/main",
				Claims: map[string]any{"ref": "refs/heads/main", "run_id": "1"}, Workload: issuers.Workload{ProjectID: "456"},
			},
			Bound: "thumbprint", Asked: []string{"deploy"}, Session: "s1-x",
			Leases: []broker.EventLease{{
				ID: "l1-x", Credential: "deploy", Kind: "jwt", Policy: "shop", PolicyDigest: "d1", State: broker.Active,
				Expires: time.Now().Add(time.Hour).In(zone), Why: "revoked",
			}},
			Policies: "d2", Shadow: []string{"next"}, Drift: []string{"repository"},
		}
		if err := l.Record(t.Context(), whole); err != nil {
			t.Fatal(err)
		}
		time.Sleep(audit.SealAfter + time.Second)
		record(t, l, "third")
		closeLog(t, l)
		l = open(t, path)
		closeLog(t, l)
		got := read(t, path)
		verify(t, got)
		const golden = "testdata/format.jsonl"
		if *update {
			if err := os.WriteFile(golden, got, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if want := read(t, golden); !bytes.Equal(got, want) {
			t.Errorf("got\n%s\nwant\n%s", got, want)
		}
	})
}

func TestConcurrent(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.jsonl")
	l := open(t, path)
	const callers, each = 64, 50
	var all sync.WaitGroup
	for c := range callers {
		all.Go(func() {
			for i := range each {
				record(t, l, fmt.Sprintf("%d/%d", c, i))
			}
		})
	}
	all.Wait()
	durable := requests(t, read(t, path)) // before Close: Record has returned
	status := l.Status()
	closeLog(t, l)
	last := make(map[string]int)
	for _, id := range durable {
		var c, i int
		if _, err := fmt.Sscanf(id, "%d/%d", &c, &i); err != nil {
			t.Fatal(err)
		}
		key := fmt.Sprint(c)
		if last[key] != i {
			t.Errorf("caller %d: event %d where %d was due", c, i, last[key])
		}
		last[key]++
	}
	if len(durable) != callers*each {
		t.Errorf("%d events, want %d", len(durable), callers*each)
	}
	r := verify(t, read(t, path))
	if r.Checkpoints < 3 || r.Sealed != r.Last || status.Unsealed >= audit.SealLines || status.Err != nil {
		t.Errorf("Report %+v, Status before Close %+v", r, status)
	}
}

// TestSealAfter: a line is covered by a checkpoint within a minute, whether or
// not others follow, and an idle log writes none.
func TestSealAfter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := open(t, filepath.Join(t.TempDir(), "audit.jsonl"))
		defer closeLog(t, l)
		for i := range 10 {
			time.Sleep(audit.SealAfter / 5)
			record(t, l, fmt.Sprint(i))
		}
		synctest.Wait()
		if s := l.Status(); s.Unsealed > 6 {
			t.Errorf("%d lines without a checkpoint", s.Unsealed)
		}
		time.Sleep(audit.SealAfter + time.Second)
		synctest.Wait()
		idle := l.Status()
		if idle.Unsealed != 0 {
			t.Errorf("idle for a minute: %+v", idle)
		}
		time.Sleep(time.Hour)
		synctest.Wait()
		if s := l.Status(); s.Seq != idle.Seq {
			t.Errorf("an idle log grew from %d to %d lines", idle.Seq, s.Seq)
		}
	})
}

// TestSealFails: without a signing key events are recorded still, and the
// checkpoint is made up for.
func TestSealFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var away atomic.Bool
		path := filepath.Join(t.TempDir(), "audit.jsonl")
		l, err := audit.Open(path, audit.Options{Sign: func(ctx context.Context, typ string, claims any) (string, error) {
			if away.Load() {
				return "", errors.New("no key")
			}
			return sign(ctx, typ, claims)
		}})
		if err != nil {
			t.Fatal(err)
		}
		away.Store(true)
		record(t, l, "1")
		time.Sleep(10 * time.Minute)
		record(t, l, "2")
		if s := l.Status(); s.SealErr == nil || s.Unsealed != 3 || s.Err != nil {
			t.Errorf("without a key: %+v", s)
		}
		away.Store(false)
		time.Sleep(audit.SealAfter + time.Second)
		synctest.Wait()
		if s := l.Status(); s.SealErr != nil || s.Unsealed != 0 {
			t.Errorf("with a key again: %+v", s)
		}
		record(t, l, "3")
		away.Store(true)
		if err := l.Close(); err == nil {
			t.Error("Close without a key succeeded")
		}
		verify(t, read(t, path))
	})
}

func TestClosed(t *testing.T) {
	l := open(t, filepath.Join(t.TempDir(), "audit.jsonl"))
	closeLog(t, l)
	closeLog(t, l)
	if err := l.Record(t.Context(), event("late")); !errors.Is(err, audit.ErrClosed) {
		t.Errorf("Record after Close = %v, want ErrClosed", err)
	}
	if err := l.Reopen(); !errors.Is(err, audit.ErrClosed) {
		t.Errorf("Reopen after Close = %v, want ErrClosed", err)
	}
}

// TestCloseWhileRecording: every Record that returned nil is in the file.
func TestCloseWhileRecording(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.jsonl")
	l := open(t, path)
	var all sync.WaitGroup
	var recorded atomic.Int64
	started := make(chan struct{}, 64)
	for range 16 {
		all.Go(func() {
			for {
				if err := l.Record(context.Background(), event("x")); err != nil {
					if !errors.Is(err, audit.ErrClosed) {
						t.Error(err)
					}
					return
				}
				recorded.Add(1)
				select {
				case started <- struct{}{}:
				default:
				}
			}
		})
	}
	for range 32 {
		<-started
	}
	closeLog(t, l)
	all.Wait()
	if got := int64(len(requests(t, read(t, path)))); got < recorded.Load() {
		t.Errorf("%d events in the file, %d acknowledged", got, recorded.Load())
	}
}

func TestEncode(t *testing.T) {
	long := strings.Repeat("é\x01", 60<<10)
	list := make([]string, 5000)
	for i := range list {
		list[i] = strings.Repeat("a", 20)
	}
	tests := []struct {
		name  string
		event broker.Event
		cut   string // of the line; "" for none
	}{
		{"short", broker.Event{Cause: "x"}, ""},
		{"long cause", broker.Event{Cause: long}, `"cut":["cause"]`},
		{"many asked", broker.Event{Asked: list}, `"cut":["cause","asked"]`},
		{"long asked", broker.Event{Asked: []string{long}}, `"cut":["cause","asked"]`},
		{"much drift", broker.Event{Drift: list}, `"cut":["cause","asked","drift"]`},
		{"many shadows", broker.Event{Shadow: list}, `"cut":["cause","asked","drift","shadow"]`},
		{"long claims", broker.Event{Who: &broker.Who{Subject: "sub", Claims: map[string]any{"x": long}}}, `"cut":["cause","asked","drift","shadow","who.claims"]`},
		{"undeclared claims", broker.Event{Undeclared: map[string]json.RawMessage{"x": json.RawMessage("{\"line\": \"\\n\\u2028<\"}")}}, ""},
		{"many of them", broker.Event{Undeclared: map[string]json.RawMessage{"x": json.RawMessage(`"` + strings.Repeat("a", 70<<10) + `"`)}}, `"who.claims","undeclared"]`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "audit.jsonl")
			l := open(t, path)
			e := tt.event
			e.Name = broker.EventExchange
			if err := l.Record(t.Context(), &e); err != nil {
				t.Fatal(err)
			}
			closeLog(t, l)
			data := read(t, path)
			verify(t, data)
			if !strings.Contains(string(data), tt.cut) || tt.cut == "" && strings.Contains(string(data), `"cut"`) {
				t.Errorf("want %s in %.300s…", tt.cut, data)
			}
			if e.Who != nil && e.Who.Claims == nil || len(e.Asked) != len(tt.event.Asked) {
				t.Error("the caller's event was changed")
			}
		})
	}
	l := open(t, filepath.Join(t.TempDir(), "audit.jsonl"))
	defer closeLog(t, l)
	for name, e := range map[string]broker.Event{
		"no name":            {},
		"a name of the log":  {Name: "log-checkpoint"},
		"too long in leases": {Name: "exchange", Leases: []broker.EventLease{{ID: long}}},
		"no JSON":            {Name: "exchange", Who: &broker.Who{Claims: map[string]any{"x": func() {}}}},
	} {
		if err := l.Record(t.Context(), &e); err == nil {
			t.Errorf("Record of an event with %s succeeded", name)
		}
	}
}

// TestContext: a caller that goes away does not keep its event out.
func TestContext(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.jsonl")
	l := open(t, path)
	gate := &gate{sync: make(chan struct{})}
	l.WrapFile(func(f audit.File) audit.File { gate.File = f; return gate })
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := l.Record(ctx, event("left")); !errors.Is(err, context.Canceled) {
		t.Errorf("Record = %v, want Canceled", err)
	}
	close(gate.sync)
	closeLog(t, l)
	if got := requests(t, read(t, path)); len(got) != 1 {
		t.Errorf("events %q, want one", got)
	}
}

// A gate is a disk that hangs until sync is closed.
type gate struct {
	audit.File
	sync chan struct{}
}

func (g *gate) Sync() error { <-g.sync; return g.File.Sync() }

// TestHangingDisk: callers are turned away rather than piled up.
func TestHangingDisk(t *testing.T) {
	l := open(t, filepath.Join(t.TempDir(), "audit.jsonl"))
	gate := &gate{sync: make(chan struct{})}
	l.WrapFile(func(f audit.File) audit.File { gate.File = f; return gate })
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	turnedAway := false
	for range 4096 + 4096 { // the batch that hangs, and the queue
		if err := l.Record(ctx, event("x")); errors.Is(err, audit.ErrFailed) {
			turnedAway = true
			break
		}
	}
	if !turnedAway {
		t.Error("nobody was turned away")
	}
	close(gate.sync)
	closeLog(t, l)
}
