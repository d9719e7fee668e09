package agent_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/brevet-dev/brevet/broker/api"
	"github.com/brevet-dev/brevet/plugins/runner"
	"github.com/brevet-dev/brevet/plugins/runner/agent"
	"github.com/brevet-dev/brevet/plugins/runner/runnertest"
)

// A maker makes exchanges for one agent, and their sessions. Its leases have
// values that are counted, and live for ttl.
type maker struct {
	ttl     time.Duration
	takes   time.Duration // an exchange, and a renewal
	refuse  error         // of exchanges
	silent  bool          // renewals are not made in time, but when asked for
	renewal func() error  // of renewals; lost if it is not nil
	revoked bool          // what is lost has ended

	mu        sync.Mutex
	exchanges int
	renewals  int
	values    int
	ended     int
}

func (m *maker) lease() api.Lease {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.values++
	l := runnertest.Lease("deploy", "TOKEN", fmt.Sprint(runnertest.Canary, m.values))
	l.ExpiresAt = time.Now().Add(m.ttl).Round(0)
	l.LeaseID = fmt.Sprint("lease-", m.exchanges)
	return l
}

func (m *maker) open(ctx context.Context, _ string) (*api.Lease, agent.Session, error) {
	m.mu.Lock()
	m.exchanges++
	refuse := m.refuse
	m.mu.Unlock()
	time.Sleep(m.takes)
	if refuse != nil {
		return nil, nil, refuse
	}
	l := m.lease()
	return &l, &session{m, l}, nil
}

// A session renews as a runner.Session does: at two thirds of the time.
type session struct {
	m *maker
	l api.Lease
}

func (s *session) Keep(ctx context.Context, r runner.Renewals) {
	for {
		due := time.After(s.m.ttl * 2 / 3)
		if s.m.silent {
			due = nil
		}
		select {
		case <-due:
		case <-r.Wake:
		case <-ctx.Done():
			return
		}
		s.m.mu.Lock()
		s.m.renewals++
		renewal := s.m.renewal
		s.m.mu.Unlock()
		time.Sleep(s.m.takes)
		if renewal != nil {
			if err := renewal(); err != nil {
				if s.m.revoked {
					s.l.ExpiresAt = time.Now()
				}
				r.Failed(s.l, err, true)
				return
			}
		}
		s.l = s.m.lease()
		r.Changed(s.l)
	}
}

func (s *session) KeepAlive(context.Context, func(error)) {}

func (s *session) End(context.Context) error {
	s.m.mu.Lock()
	defer s.m.mu.Unlock()
	s.m.ended++
	return nil
}

// listen makes an agent that is not served: its tests call it directly.
func (m *maker) listen(t *testing.T) *agent.Agent {
	t.Helper()
	a, err := agent.Listen(agent.Options{
		Credentials: []string{"deploy"}, Env: runner.Env{"TMPDIR=" + t.TempDir()}, Open: m.open, Wait: 30 * time.Second,
		Tell: func(err error) {
			if strings.Contains(err.Error(), runnertest.Canary) {
				t.Errorf("it tells %v", err)
			}
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// within runs f in a bubble, with an agent that gives back all it has at the end.
func within(t *testing.T, m *maker, f func(t *testing.T, ctx context.Context, a *agent.Agent)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		a := m.listen(t)
		defer a.Close()
		ctx, cancel := context.WithCancel(t.Context())
		f(t, ctx, a)
		cancel()
		if err := a.GiveBack(context.WithoutCancel(ctx)); err != nil || m.ended != m.exchanges && m.refuse == nil {
			t.Errorf("of %d sessions %d were ended: %v", m.exchanges, m.ended, err)
		}
	})
}

// TestNeverAboutToEnd asks once a second for two hours.
func TestNeverAboutToEnd(t *testing.T) {
	for _, ttl := range []time.Duration{10 * time.Second, time.Minute, 5 * time.Minute, time.Hour} {
		m := &maker{ttl: ttl, takes: time.Second}
		within(t, m, func(t *testing.T, ctx context.Context, a *agent.Agent) {
			for begin := time.Now(); time.Since(begin) < 2*time.Hour; time.Sleep(time.Second) {
				l, err := a.Lease(ctx, "deploy")
				if err != nil {
					t.Fatal(err)
				}
				if left := time.Until(l.ExpiresAt); left < min(time.Minute, ttl/4) {
					t.Fatalf("ttl %s: a lease with %s left", ttl, left)
				}
			}
			if m.exchanges != 1 {
				t.Errorf("ttl %s: %d exchanges, want 1", ttl, m.exchanges)
			}
		})
	}
}

// TestOneExchange has many tools ask at once.
func TestOneExchange(t *testing.T) {
	m := &maker{ttl: time.Hour, takes: time.Second}
	within(t, m, func(t *testing.T, ctx context.Context, a *agent.Agent) {
		var asking sync.WaitGroup
		for range 100 {
			asking.Go(func() {
				if _, err := a.Lease(ctx, "deploy"); err != nil {
					t.Error(err)
				}
			})
		}
		asking.Wait()
		if m.exchanges != 1 {
			t.Errorf("%d exchanges, want 1", m.exchanges)
		}
	})
}

// TestLateRenewal asks when renewals have not come: the machine slept, say.
func TestLateRenewal(t *testing.T) {
	m := &maker{ttl: time.Hour, takes: time.Second, silent: true}
	within(t, m, func(t *testing.T, ctx context.Context, a *agent.Agent) {
		for _, later := range []time.Duration{0, time.Hour - 30*time.Second, 5 * time.Hour} {
			time.Sleep(later)
			var asking sync.WaitGroup
			for range 10 {
				asking.Go(func() {
					if l, err := a.Lease(ctx, "deploy"); err != nil || time.Until(l.ExpiresAt) < time.Minute {
						t.Errorf("after %s: %v", later, err)
					}
				})
			}
			asking.Wait()
		}
		if m.exchanges != 1 || m.renewals != 2 {
			t.Errorf("%d exchanges and %d renewals, want 1 and 2", m.exchanges, m.renewals)
		}
	})
}

// TestRefusedExchange shows that a tool in a loop is none at the broker.
func TestRefusedExchange(t *testing.T) {
	denied := &runner.Failure{Kind: runner.Denied, Err: errors.New("the broker refused")}
	m := &maker{ttl: time.Hour, refuse: denied}
	within(t, m, func(t *testing.T, ctx context.Context, a *agent.Agent) {
		for range 100 {
			if l, err := a.Lease(ctx, "deploy"); l != nil || !errors.Is(err, denied) {
				t.Fatalf("Lease = %v", err)
			}
			time.Sleep(100 * time.Millisecond)
		}
		if m.exchanges < 2 || m.exchanges > 6 {
			t.Errorf("%d exchanges in ten seconds, want about 5", m.exchanges)
		}
		m.refuse = nil // a policy was mended
		time.Sleep(5 * time.Second)
		if _, err := a.Lease(ctx, "deploy"); err != nil {
			t.Error(err)
		}
		m.exchanges = m.ended + 1 // those refused have no session
	})
}

// TestLost loses a lease: to nobody who answers it is got again, to an order or a
// policy it is not.
func TestLost(t *testing.T) {
	for kind, again := range map[runner.Kind]bool{runner.Unavailable: true, runner.Denied: false} {
		m := &maker{ttl: time.Hour, renewal: func() error { return &runner.Failure{Kind: kind, Err: errors.New("no renewal")} }}
		within(t, m, func(t *testing.T, ctx context.Context, a *agent.Agent) {
			if _, err := a.Lease(ctx, "deploy"); err != nil {
				t.Fatal(err)
			}
			time.Sleep(50 * time.Minute) // it is lost
			_, err := a.Lease(ctx, "deploy")
			if (err == nil) != again {
				t.Errorf("kind %d, while the lease lives: %v", kind, err)
			}
			time.Sleep(time.Hour)
			l, err := a.Lease(ctx, "deploy")
			if (err == nil) != again || again && time.Until(l.ExpiresAt) < time.Minute {
				t.Errorf("kind %d, after its end: %v", kind, err)
			}
			if again != (m.exchanges == 2) {
				t.Errorf("kind %d: %d exchanges", kind, m.exchanges)
			}
		})
	}
}

// TestLostWhileAsked has tools wait for a renewal that is refused.
func TestLostWhileAsked(t *testing.T) {
	m := &maker{ttl: time.Hour, takes: time.Second, silent: true, renewal: func() error { return errors.New("no renewal") }}
	within(t, m, func(t *testing.T, ctx context.Context, a *agent.Agent) {
		if _, err := a.Lease(ctx, "deploy"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * time.Hour)
		if l, err := a.Lease(ctx, "deploy"); l != nil || err == nil || err.Error() != "no renewal" {
			t.Errorf("Lease = %v", err)
		}
	})
}

// TestNoAnswer asks a broker that does not answer in time, and then does.
func TestNoAnswer(t *testing.T) {
	m := &maker{ttl: time.Hour, takes: 40 * time.Second}
	within(t, m, func(t *testing.T, ctx context.Context, a *agent.Agent) {
		if _, err := a.Lease(ctx, "deploy"); !runner.IsKind(err, runner.Unavailable) || !strings.Contains(err.Error(), "within 30s") {
			t.Errorf("Lease = %v", err)
		}
		if _, err := a.Lease(ctx, "deploy"); err != nil || m.exchanges != 1 {
			t.Errorf("Lease = %v, after %d exchanges", err, m.exchanges)
		}
	})
}

// TestEndDuringExchange ends the agent when an exchange is on its way: what it
// gives is given back.
func TestEndDuringExchange(t *testing.T) {
	m := &maker{ttl: time.Hour, takes: 3 * time.Second}
	within(t, m, func(t *testing.T, ctx context.Context, a *agent.Agent) {
		ctx, cancel := context.WithCancel(ctx)
		time.AfterFunc(time.Second, cancel)
		if l, err := a.Lease(ctx, "deploy"); l != nil || err == nil {
			t.Errorf("Lease = %v", err)
		}
	})
	if m.ended != 1 {
		t.Errorf("%d sessions ended, want 1", m.ended)
	}
}

// TestWrongClock has a broker whose leases have ended, by this machine's clock.
func TestWrongClock(t *testing.T) {
	m := &maker{ttl: -time.Minute}
	within(t, m, func(t *testing.T, ctx context.Context, a *agent.Agent) {
		if l, err := a.Lease(ctx, "deploy"); l != nil || !strings.Contains(fmt.Sprint(err), "by this machine's clock") {
			t.Errorf("Lease = %v", err)
		}
	})
}

func TestNotHandedOut(t *testing.T) {
	m := &maker{ttl: time.Hour}
	within(t, m, func(t *testing.T, ctx context.Context, a *agent.Agent) {
		if _, err := a.Lease(ctx, "admin\x1b##["); err == nil || err.Error() != "the agent does not hand out admin # #[, but deploy" {
			t.Errorf("Lease = %v", err)
		}
	})
}

// TestEnded asks an agent that has given back all it had: there must be nothing
// more to give back.
func TestEnded(t *testing.T) {
	m := &maker{ttl: time.Hour}
	within(t, m, func(t *testing.T, ctx context.Context, a *agent.Agent) {
		if err := a.GiveBack(ctx); err != nil {
			t.Fatal(err)
		}
		if l, err := a.Lease(ctx, "deploy"); l != nil || err == nil || m.exchanges > 0 {
			t.Errorf("Lease = %v, after %d exchanges", err, m.exchanges)
		}
	})
}
