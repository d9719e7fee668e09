package broker_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/brevet-dev/brevet/broker"
	"github.com/brevet-dev/brevet/broker/api"
)

// watching looks after who listens, until the test ends.
func (h *harness) watching(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); h.Watch(ctx) }()
	t.Cleanup(func() { cancel(); <-done })
	s := h.mustExchange(t, h.request(t, "registry")).Session
	eventually(t, func() bool {
		l, err := h.Listen(s, "")
		if err == nil {
			l.Close()
		}
		return err == nil
	})
}

func (h *harness) listen(t *testing.T, s *broker.Session, knows string) *broker.Listener {
	t.Helper()
	l, err := h.Listen(s, knows)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.Close)
	return l
}

// hears returns what l hears until its end, or until there are n notices.
func hears(t *testing.T, l *broker.Listener, n int) (said []string, err error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	for len(said) < n {
		notices, err := l.Next(ctx)
		if err != nil {
			return said, err
		}
		for _, n := range notices {
			said = append(said, text(n))
		}
	}
	return said, nil
}

func text(n broker.Notice) string {
	switch {
	case n.Rotated != nil:
		return "rotated to " + n.Rotated.Signing + "/" + n.Rotated.KEK
	case n.Revoked.Session:
		return "the session"
	}
	return n.Revoked.Credential + " " + n.Revoked.Why
}

func wantHeard(t *testing.T, l *broker.Listener, want string, end error) {
	t.Helper()
	said, err := hears(t, l, 100)
	if got := strings.Join(said, ", "); got != want || !errors.Is(err, end) {
		t.Errorf("heard: %s; then %v; want %s; then %v", got, err, want, end)
	}
}

// A listener hears of each lease that was ended before its time, once, and of
// the end of the session, and then nothing more.
func TestListen(t *testing.T) {
	h := newHarness(t)
	h.watching(t)
	issued := h.mustExchange(t, h.request(t, "deploy", "registry", "database"))
	other := h.listen(t, h.mustExchange(t, h.request(t, "deploy")).Session, "")
	l := h.listen(t, issued.Session, "")
	if err := h.RevokeLease(t.Context(), issued.Token, issued.Leases[1].LeaseID, "R"); err != nil {
		t.Fatal(err)
	}
	if said, err := hears(t, l, 1); err != nil || fmt.Sprint(said) != "[registry revoked]" {
		t.Errorf("heard %v, %v; want of one lease", said, err)
	}
	if err := h.RevokeSession(t.Context(), issued.Token, "R"); err != nil {
		t.Fatal(err)
	}
	wantHeard(t, l, "deploy revoked, database revoked, the session", io.EOF)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if notices, err := other.Next(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("another session heard %v, %v", notices, err)
	}
}

// Who listens again hears first what happened meanwhile; what ended by its time
// is no news.
func TestListenAgain(t *testing.T) {
	h := newHarness(t)
	h.Keys = func() broker.Keys { return broker.Keys{Signing: "k2", KEK: "e1"} }
	h.watching(t)
	issued := h.mustExchange(t, h.request(t, "deploy", "registry"))
	if _, err := h.Leases.End(t.Context(), issued.Session.ID, []string{issued.Leases[0].LeaseID}, broker.WhyExpired); err != nil {
		t.Fatal(err)
	}
	if _, err := h.Leases.End(t.Context(), issued.Session.ID, nil, broker.WhyOrdered); err != nil {
		t.Fatal(err)
	}
	s, err := h.Leases.Session(t.Context(), issued.Session.ID)
	if err != nil {
		t.Fatal(err)
	}
	wantHeard(t, h.listen(t, s, ""), "registry ordered, the session", io.EOF)
	wantHeard(t, h.listen(t, s, h.KeysID()), "registry ordered, the session", io.EOF)
	s.Ended = false
	again := h.listen(t, s, broker.Keys{Signing: "k1", KEK: "e1"}.ID())
	if said, err := hears(t, again, 2); err != nil || fmt.Sprint(said) != "[registry ordered rotated to k2/e1]" {
		t.Errorf("heard %q, %v; want of the keys, too", said, err)
	}
}

// A change of the keys is told to all, and of several the last.
func TestListenToRotations(t *testing.T) {
	h := newHarness(t)
	var version atomic.Int64
	h.Keys = func() broker.Keys { return broker.Keys{Signing: fmt.Sprint("k", version.Load())} }
	h.watching(t)
	s := h.mustExchange(t, h.request(t, "deploy")).Session
	one, other := h.listen(t, s, ""), h.listen(t, s, h.KeysID())
	version.Add(1)
	for _, l := range []*broker.Listener{one, other} {
		if said, err := hears(t, l, 1); err != nil || said[0] != "rotated to k1/" {
			t.Errorf("heard %q, %v; want of k1", said, err)
		}
	}
}

// Nobody listens who would hear nothing: without a loop that looks, after a
// Redis that was lost, when the broker stops.
func TestListenersAreNotDeaf(t *testing.T) {
	h := newHarness(t)
	s := h.mustExchange(t, h.request(t, "deploy")).Session
	if _, err := h.Listen(s, ""); !errors.Is(err, broker.ErrUnavailable) {
		t.Errorf("Listen while nobody looks = %v, want ErrUnavailable", err)
	}
	h.watching(t)
	l := h.listen(t, s, "")
	h.server.SetError("LOADING Redis is away")
	wantHeard(t, l, "", broker.ErrUnavailable)
	if n := h.Listeners(); n != 0 {
		t.Errorf("%d listen", n)
	}
	h.server.SetError("")
	l = h.listen(t, s, "")
	h.EndListening()
	wantHeard(t, l, "", broker.ErrUnavailable)
	if _, err := h.Listen(s, ""); !errors.Is(err, broker.ErrUnavailable) {
		t.Errorf("Listen at a broker that stops = %v, want ErrUnavailable", err)
	}
}

// The listeners of a session, of a workload and of all are bounded, so that none
// takes the place of others; who has gone makes room.
func TestListenersAreBounded(t *testing.T) {
	h := newHarness(t)
	h.LetListen()
	session := func(project, id int) *broker.Session {
		letters := strings.Map(func(digit rune) rune { return 'a' + digit - '0' }, fmt.Sprintf("%032d", id))
		s := &broker.Session{ID: "s0-" + letters, Who: broker.Who{URL: "u"}}
		s.Who.Workload.ProjectID = fmt.Sprint(project)
		return s
	}
	var all []*broker.Listener
	defer func() {
		for _, l := range all {
			l.Close()
		}
	}()
	fill := func(s func(i int) *broker.Session, most int) {
		t.Helper()
		for i := range most + 1 {
			l, err := h.Listen(s(i), "")
			if (err == nil) != (i < most) {
				t.Fatalf("listener %d of %d: %v", i+1, most, err)
			}
			if err == nil {
				all = append(all, l)
			} else if r := broker.Refuse(err); r.Status != 503 || r.RetryAfter == 0 || r.Public.Code != api.CodeTemporarily {
				t.Fatalf("one too many hears %+v", r)
			}
		}
	}
	fill(func(int) *broker.Session { return session(0, 0) }, broker.MaxSessionListeners)
	all[0].Close()
	all = append(all[1:], h.listen(t, session(0, 0), ""))
	fill(func(i int) *broker.Session { return session(0, 1+i) }, broker.MaxWorkloadListeners-broker.MaxSessionListeners)
	fill(func(i int) *broker.Session { return session(1+i%7, 10_000+i) }, broker.MaxListeners-broker.MaxWorkloadListeners)

	// When there is no room for others, those go of which there are most.
	for i := range 8 {
		all = append(all, h.listen(t, session(100, 20_000+i), ""))
	}
	ended := 0
	for _, l := range all[:len(all)-8] {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := l.Next(ctx); errors.Is(err, broker.ErrListeners) {
			ended++
		}
	}
	if n := h.Listeners(); ended != 8 || n != broker.MaxListeners {
		t.Errorf("%d listen, and %d made room, want 8", n, ended)
	}
}

// The roles of one AWS account are workloads of their own, and the refs of one
// repository are not.
func TestListenersOfOneOwner(t *testing.T) {
	h := newHarness(t)
	h.LetListen()
	session := func(project, sub string) *broker.Session {
		s := &broker.Session{ID: broker.NewID('s', 0), Who: broker.Who{URL: "u", Subject: sub}}
		s.Who.Workload.OwnerID, s.Who.Workload.ProjectID = "111122223333", project
		return s
	}
	for _, tt := range []struct {
		project string
		room    bool
	}{{"", true}, {"456", false}} {
		for range broker.MaxWorkloadListeners {
			h.listen(t, session(tt.project, "one"), "")
		}
		l, err := h.Listen(session(tt.project, "other"), "")
		if (err == nil) != tt.room {
			t.Errorf("project %q, another sub: %v", tt.project, err)
		}
		if err == nil {
			l.Close()
		}
	}
}
