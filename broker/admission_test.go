package broker_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/brevet-dev/brevet/broker"
	"github.com/brevet-dev/brevet/broker/api"
)

// A house is an admission in a bubble, and who came in so far, in order.
type house struct {
	broker.Admission
	t  *testing.T
	mu sync.Mutex
	in []string
}

// comes lets n of a workload queue up, one after the other, and counts those
// that are sent away.
func (h *house) comes(workload string, n int) *int {
	refused := new(int)
	for range n {
		go func() {
			err := h.Enter(h.t.Context(), workload)
			h.mu.Lock()
			defer h.mu.Unlock()
			switch {
			case err == nil:
				h.in = append(h.in, workload)
			case errors.Is(err, broker.ErrBusy):
				*refused++
			default:
				h.t.Errorf("Enter = %v", err)
			}
		}()
		synctest.Wait()
	}
	return refused
}

// leave lets n leave, one after the other.
func (h *house) leave(n int) {
	for range n {
		h.Leave()
		synctest.Wait()
	}
}

func (h *house) want(order string, load broker.Load) {
	h.t.Helper()
	if got := strings.Join(h.in, ""); got != order || h.Load() != load {
		h.t.Errorf("came in: %s, %+v; want %s, %+v", got, h.Load(), order, load)
	}
}

// The lines take turns: who comes alone is served next, however long the line of
// another is.
func TestAdmissionTakesTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := &house{t: t, Admission: broker.NewAdmission(2)}
		h.comes("a", 8)
		h.want("aa", broker.Load{Working: 2, Waiting: 6})
		h.comes("b", 1)
		h.comes("c", 2)
		h.leave(9)
		h.want("aaabcacaaaa", broker.Load{Working: 2})
		h.leave(2)
		if h.Lines() != 0 || h.Load().Working != 0 {
			t.Errorf("%d lines are left, and %+v", h.Lines(), h.Load())
		}
	})
}

// What was begun is finished before others begin.
func TestAdmissionWaitsForThoseWhoComeBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := &house{t: t, Admission: broker.NewAdmission(2)}
		h.comes("a", 4)
		h.leave(2) // to wait for a target
		h.want("aaaa", broker.Load{Working: 2})
		h.ComeBack()
		h.ComeBack()
		h.comes("b", 1)
		h.leave(2)
		h.want("aaaa", broker.Load{Working: 2, Waiting: 1})
		h.leave(1)
		h.want("aaaab", broker.Load{Working: 2})
	})
}

// A full house sends away those of the longest line, and of the others nobody.
func TestAdmissionIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := &house{t: t, Admission: broker.NewAdmission(1)}
		many := h.comes("a", 1+broker.MaxQueue)
		if *many != 0 {
			t.Fatalf("%d were sent away before the house was full", *many)
		}
		later := h.comes("a", 10)
		few := h.comes("b", 10)
		if *later != 10 || *few != 0 || *many != 10 {
			t.Errorf("sent away: %d of those who came first, %d later, %d of another workload; want 10, 10, none", *many, *later, *few)
		}
		h.want("a", broker.Load{Working: 1, Waiting: broker.MaxQueue, Refused: 20})
		h.leave(20)
		h.want("aabababababababababab", broker.Load{Working: 1, Waiting: broker.MaxQueue - 20, Refused: 20})
		time.Sleep(broker.MaxWait)
		synctest.Wait()
		h.want("aabababababababababab", broker.Load{Working: 1, Refused: broker.MaxQueue})
	})
}

// Nobody waits for longer than is of use, nor for a client that has gone.
func TestAdmissionGivesUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := &house{t: t, Admission: broker.NewAdmission(1)}
		h.comes("a", 1)
		start := time.Now()
		err := h.Enter(t.Context(), "b")
		if r := broker.Refuse(err); !errors.Is(err, broker.ErrBusy) || time.Since(start) != broker.MaxWait || r.Status != 503 ||
			r.Public.Code != api.CodeTemporarily || r.RetryAfter < time.Second || r.RetryAfter > 4*time.Second {
			t.Errorf("Enter = %v after %s, %+v; want 503 after %s, with Retry-After", err, time.Since(start), r, broker.MaxWait)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := h.Enter(ctx, "b"); !errors.Is(err, broker.ErrBusy) || !errors.Is(err, context.Canceled) {
			t.Errorf("Enter without a client = %v", err)
		}
		h.want("a", broker.Load{Working: 1, Refused: 2})
		if h.Lines() != 0 {
			t.Errorf("%d lines are left", h.Lines())
		}
	})
}

// Whatever happens at the same time, every seat is given back.
func TestAdmissionLosesNoSeat(t *testing.T) {
	a := broker.NewAdmission(3)
	var all sync.WaitGroup
	for i := range 64 {
		all.Go(func() {
			for range 50 {
				ctx, cancel := context.WithTimeout(t.Context(), rand.N(200*time.Microsecond))
				if a.Enter(ctx, fmt.Sprint(i%5)) == nil {
					if i%2 == 0 {
						a.Leave()
						a.ComeBack()
					}
					a.Leave()
				}
				cancel()
			}
		})
	}
	all.Wait()
	if load := a.Load(); load.Working != 0 || load.Waiting != 0 || a.Lines() != 0 {
		t.Errorf("%+v, and %d lines are left", load, a.Lines())
	}
}

// A gatedStore lets nobody reserve before its gate is open.
type gatedStore struct {
	broker.LeaseStore
	gate chan struct{}
}

func (s *gatedStore) Reserve(ctx context.Context, x *broker.Session, u broker.TokenUse) error {
	<-s.gate
	return s.LeaseStore.Reserve(ctx, x, u)
}

// crowd fills the house with exchanges that cannot go on before the gate is
// open, and returns a function that opens it and waits until all have ended.
func (h *harness) crowd(t *testing.T) (disperse func()) {
	t.Helper()
	store, gate := h.Leases, make(chan struct{})
	h.Leases = &gatedStore{store, gate}
	var all sync.WaitGroup
	for h.Load().Waiting == 0 {
		req := h.request(t, "registry")
		before := h.Load()
		all.Go(func() { h.exchange(t, req) })
		eventually(t, func() bool { return h.Load() != before })
	}
	return func() { close(gate); all.Wait() }
}

func eventually(t *testing.T, ok func() bool) {
	t.Helper()
	tick, late := time.NewTicker(time.Millisecond), time.After(10*time.Second)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-late:
			t.Fatal("it does not happen")
		}
	}
}

// While all seats are taken, sessions are renewed and revoked, and who has no
// grant is told so at once.
func TestCrowdHoldsUpExchangesOnly(t *testing.T) {
	h := newHarness(t)
	issued := h.mustExchange(t, h.request(t, "deploy"))
	disperse := h.crowd(t)
	defer disperse()
	load := h.Load()
	if _, err := h.Renew(t.Context(), issued.Session, issued.Leases[0].LeaseID, &broker.Event{}); err != nil {
		t.Errorf("Renew = %v", err)
	}
	if err := h.RevokeSession(t.Context(), issued.Token, "R"); err != nil || len(h.target.leases()) != 0 {
		t.Errorf("RevokeSession = %v, and %d credentials live", err, len(h.target.leases()))
	}
	stranger := h.request(t, "registry")
	stranger.SubjectToken = h.token(t, map[string]any{"repository_id": "999"})
	if _, err := h.exchange(t, stranger); broker.Refuse(err).Status != 400 {
		t.Errorf("the exchange of a stranger = %v, want a refusal", err)
	}
	if got := h.Load(); got != load {
		t.Errorf("Load = %+v, want %+v", got, load)
	}
}

// One that had to wait is decided anew when its turn comes: its leases begin
// then, and a grant that is gone is gone.
func TestDecidedAfterWaiting(t *testing.T) {
	h := newHarness(t)
	disperse := h.crowd(t)
	load, errs, sessions := h.Load(), make(chan error, 1), make(chan *broker.Session, 1)
	withdrawn, kept := h.request(t, "deploy"), h.request(t, "registry")
	go func() { _, err := h.exchange(t, withdrawn); errs <- err }()
	go func() {
		issued, err := h.exchange(t, kept)
		if err != nil {
			t.Errorf("Exchange = %v", err)
			issued = &broker.Issued{Session: &broker.Session{Leases: []*broker.Lease{{}}}}
		}
		sessions <- issued.Session
	}()
	eventually(t, func() bool { return h.Load().Waiting == load.Waiting+2 })
	h.Policies.Swap(loadPolicies(t, h.Issuers, strings.ReplaceAll(shopPolicy, "- {credential: deploy, ttl: 10m, max_ttl: 30m}\n", "")))
	opened := time.Now()
	disperse()
	if s := <-sessions; s.IssuedAt.Before(opened) || s.Leases[0].Expires.Before(opened.Add(5*time.Minute-time.Second)) {
		t.Errorf("what waited until %s was issued at %s, and ends at %s", opened, s.IssuedAt, s.Leases[0].Expires)
	}
	if err := <-errs; broker.Refuse(err).Public.Code != api.CodeInvalidTarget {
		t.Errorf("Exchange = %v, want a refusal: the grant was withdrawn while it waited", err)
	}
	for _, ev := range h.audit.named(broker.EventExchange) {
		if len(ev.Unsafe) > 1 || len(ev.Shadow) > 1 {
			t.Errorf("what the policies say is there twice: %+v", ev)
		}
	}
	if got := h.Load(); got.Working != 0 || got.Waiting != 0 {
		t.Errorf("Load = %+v when all have ended", got)
	}
}

// A slowMinter waits for its target.
type slowMinter struct {
	broker.Minter
	gate chan struct{}
}

func (m slowMinter) Mint(ctx context.Context, s *broker.Session, l *broker.Lease) (*broker.Credential, error) {
	<-m.gate
	return m.Minter.Mint(ctx, s, l)
}

// A target that does not answer holds no seats: others are served.
func TestSlowTargetHoldsNoSeat(t *testing.T) {
	h := newHarness(t)
	slow := slowMinter{h.target.minter("deploy"), make(chan struct{})}
	h.Targets["deploy"] = broker.Target{Kind: "test", Minter: slow}
	var all sync.WaitGroup
	for range 100 {
		req := h.request(t, "deploy")
		all.Go(func() { h.exchange(t, req) })
	}
	eventually(t, func() bool { return len(h.audit.named(broker.EventIntent)) == 100 && h.Load().Working == 0 })
	h.mustExchange(t, h.request(t, "registry"))
	close(slow.gate)
	all.Wait()
	if got := h.Load(); got != (broker.Load{}) || len(h.target.leases()) != 101 {
		t.Errorf("Load = %+v, and %d credentials; want none at work, and 101", got, len(h.target.leases()))
	}
}
