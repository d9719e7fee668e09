package runner_test

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/brevet-dev/brevet/broker/api"
	"github.com/brevet-dev/brevet/plugins/runner"
	"github.com/brevet-dev/brevet/plugins/runner/runnertest"
)

// A renewer is a broker with one lease, of ttl a minute. Its answer to the n-th
// renewal, from 1, is that of refuse if that is not nil.
type renewer struct {
	refuse func(n int) (*http.Response, error)
	id     string        // of the lease that a renewal gives, if not ""
	max    time.Duration // max_ttl; 0: without end
	state  string        // of the lease
	late   time.Duration // how far its clock is behind the machine's

	mu      sync.Mutex
	begin   time.Time
	renewed []time.Time
	revoked []string // session tokens
}

const ttl = time.Minute

func (b *renewer) RoundTrip(r *http.Request) (*http.Response, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if err := r.ParseForm(); err != nil {
		return nil, err
	}
	switch {
	case r.URL.Path == api.PathRevoke:
		b.revoked = append(b.revoked, r.PostForm.Get("token"))
		return response(200, "", ""), nil
	case r.Method == http.MethodGet:
		return response(200, "", `{"state": "`+b.state+`"}`), nil
	case r.URL.Path != api.PathLeases+"lease-deploy/renew", r.Header.Get("DPoP") == "":
		return response(404, "", `{"error": "not_found"}`), nil
	}
	b.renewed = append(b.renewed, time.Now())
	if b.refuse != nil {
		if a, err := b.refuse(len(b.renewed)); a != nil || err != nil {
			return a, err
		}
	}
	l := b.lease(len(b.renewed))
	l.LeaseID = cmp.Or(b.id, l.LeaseID)
	to, err := api.ParseSealKey(r.PostForm.Get("seal_key"))
	if err != nil {
		return nil, err
	}
	token := strings.TrimPrefix(r.Header.Get("Authorization"), "DPoP ")
	body, err := l.EncodeSealed(to, api.SealContext{URL: r.URL.String(), Proof: r.Header.Get("DPoP"), SessionToken: api.NewSecret(token)})
	return response(200, "", string(body)), err
}

// times returns when there were renewals.
func (b *renewer) times() []time.Time {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.renewed)
}

// lease returns the lease with its n-th value, as of now.
func (b *renewer) lease(n int) api.Lease {
	l := runnertest.Lease("deploy", "TOKEN", fmt.Sprint(canary, n))
	l.ExpiresAt = time.Now().Add(ttl - b.late)
	l.Renewable = b.max == 0 || l.ExpiresAt.Before(b.begin.Add(b.max))
	if !l.Renewable {
		l.ExpiresAt = b.begin.Add(b.max)
	}
	return l
}

func (b *renewer) session(t *testing.T, token string, n int) *runner.Session {
	t.Helper()
	b.begin = time.Now()
	c := newClient(t, "https://broker.example.com", &http.Client{Transport: b})
	return runner.NewSession(&api.TokenResponse{AccessToken: api.NewSecret(token), Leases: []api.Lease{b.lease(n)}}, c)
}

func refusing(code string) func(int) (*http.Response, error) {
	return func(int) (*http.Response, error) {
		return response(400, "", `{"error": "`+code+`", "request_id": "req-1"}`), nil
	}
}

// heard collects what Keep tells.
type heard struct {
	values []string
	ends   time.Time // of the last lease
	failed []string
	lost   int
}

func (h *heard) renewals(again bool) runner.Renewals {
	return runner.Renewals{
		Again: func(string) bool { return again },
		Changed: func(l api.Lease) error {
			h.values = append(h.values, l.Values["token"].Reveal())
			h.ends = l.ExpiresAt
			return nil
		},
		Failed: func(l api.Lease, err error, lost bool) {
			h.failed = append(h.failed, err.Error())
			if h.ends = l.ExpiresAt; lost {
				h.lost++
			}
		},
	}
}

func TestKeep(t *testing.T) {
	busy := func(int) (*http.Response, error) { return response(503, "", ""), nil }
	for _, tt := range []struct {
		name   string
		broker *renewer
		again  bool // another exchange is possible
		values int  // at least so many new ones in ten minutes
		failed []string
		lost   int
		over   time.Duration // when the last lease that was in use ended; 0: it lives
	}{
		{"all is well", &renewer{}, false, 14, nil, 0, 0},
		{"busy now and then", &renewer{refuse: func(n int) (*http.Response, error) {
			if n%2 == 0 {
				return response(503, "", ""), nil
			}
			return nil, nil
		}}, false, 14, nil, 0, 0},
		{"nobody there", &renewer{refuse: busy}, false, 0, []string{"renewing deploy: the broker answered 503", "503"}, 1, ttl},
		{"an error in between", &renewer{refuse: func(n int) (*http.Response, error) {
			if n == 1 {
				return response(500, "", ""), nil
			}
			return nil, nil
		}}, false, 13, []string{"500"}, 0, 0},
		{"the policy grants it no more", &renewer{refuse: refusing("invalid_target")}, true, 0, []string{"ended before its time"}, 1, ttl * 2 / 3},
		{"revoked", &renewer{refuse: refusing("invalid_request"), state: "revoked"}, true, 0, []string{"ended before its time"}, 1, ttl * 2 / 3},
		{"refused while it lives", &renewer{refuse: refusing("invalid_request"), state: "active"}, false, 0, []string{"max_ttl"}, 1, ttl},
		{"max_ttl", &renewer{max: 3 * ttl}, false, 3, []string{"max_ttl"}, 1, 3 * ttl},
		{"max_ttl, and again", &renewer{max: 3 * ttl, state: "active"}, true, 12, nil, 0, 0},
		{"another lease", &renewer{id: "other"}, false, 0, []string{"not the lease asked for", "not the lease asked for"}, 1, ttl},
		{"a lease in clear", &renewer{refuse: func(int) (*http.Response, error) {
			return response(200, "", `{"lease_id": "lease-deploy", "credential": "deploy"}`), nil
		}}, false, 0, []string{"not a sealed lease", "not a sealed lease"}, 1, ttl},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { testKeep(t, tt.broker, tt.again, tt.values, tt.failed, tt.lost, tt.over) })
		})
	}
}

func testKeep(t *testing.T, b *renewer, mayAgain bool, values int, failed []string, lost int, over time.Duration) {
	begin := time.Now()
	s := b.session(t, "first", 0)
	sessions := 1
	var again func(context.Context, string) (*runner.Session, error)
	again = func(context.Context, string) (*runner.Session, error) {
		sessions++
		other := b.session(t, fmt.Sprint("session", sessions), 100*sessions)
		other.SetAgain(again)
		return other, nil
	}
	s.SetAgain(again)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
	defer cancel()
	h := &heard{ends: begin.Add(ttl)}
	s.Keep(ctx, h.renewals(mayAgain))
	if len(h.values) < values || values == 0 && len(h.values) > 0 || h.lost != lost || len(h.failed) != len(failed) {
		t.Fatalf("%d values, lost %d, failed %q", len(h.values), h.lost, h.failed)
	}
	for i, want := range failed {
		if !strings.Contains(h.failed[i], want) || strings.Contains(h.failed[i], canary) {
			t.Errorf("failed %q, want %q", h.failed[i], want)
		}
	}
	for i := 1; i < len(h.values); i++ {
		if h.values[i] == h.values[i-1] {
			t.Errorf("value %d is not new", i)
		}
	}
	if end := h.ends.Sub(begin); over == 0 && h.ends.Before(time.Now()) || over > 0 && (end > over || end < over-ttl/10) {
		t.Errorf("the last values end after %s", end)
	}
	if err := s.Revoke(t.Context()); err != nil || len(b.revoked) == 0 || len(b.revoked) > sessions {
		t.Errorf("Revoke = %v, of %d sessions %v", err, sessions, b.revoked)
	}
}

// TestKeepOfDataKey: another data key would not open what the first has sealed, so
// there is none in its place.
func TestKeepOfDataKey(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := (&renewer{max: 1}).session(t, "first", 0)
		l := &s.Answer.Leases[0]
		l.Kind, l.ExpiresAt = api.KindDataKey, time.Now().Add(ttl)
		s.SetAgain(func(context.Context, string) (*runner.Session, error) {
			t.Error("exchanged for again")
			return nil, errors.New("no")
		})
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
		defer cancel()
		h := &heard{}
		if s.Keep(ctx, h.renewals(true)); len(h.values)+len(h.failed) > 0 || ctx.Err() != nil {
			t.Errorf("%d values, failed %q, %v", len(h.values), h.failed, ctx.Err())
		}
	})
}

// TestKeepOfPast has a machine whose clock is ahead, or a broker that says so: each
// lease that comes has ended already. That must not become a flood of renewals.
func TestKeepOfPast(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &renewer{late: time.Hour}
		s := b.session(t, "first", 0)
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(10*time.Second, cancel)
		h := &heard{}
		renewals, changed := h.renewals(false), 0
		told := renewals.Changed
		renewals.Changed = func(l api.Lease) error {
			if changed++; changed > 100 {
				cancel()
			}
			return told(l)
		}
		s.Keep(ctx, renewals)
		if changed > 20 {
			t.Errorf("%d renewals within ten seconds", changed)
		}
	})
}

// TestKeepAtEnd has the session end while another exchange is on its way: what
// that gives is given back.
func TestKeepAtEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &renewer{max: ttl}
		s := b.session(t, "first", 0)
		s.SetAgain(func(context.Context, string) (*runner.Session, error) {
			time.Sleep(2 * ttl)
			return b.session(t, "second", 1), nil
		})
		ctx, cancel := context.WithCancel(t.Context())
		h := &heard{}
		done := make(chan struct{})
		go func() { defer close(done); s.Keep(ctx, h.renewals(true)) }()
		time.Sleep(ttl)
		cancel()
		err := s.Revoke(t.Context())
		<-done
		if got := strings.Join(b.revoked, " "); err != nil || got != "first second" || len(h.values) > 0 {
			t.Errorf("Revoke = %v, revoked %q, values %q; want first and second revoked", err, got, h.values)
		}
	})
}

// TestKeepUnused ends what nobody can take new values of.
func TestKeepUnused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &renewer{}
		s := b.session(t, "first", 0)
		h := &heard{}
		r := h.renewals(false)
		r.Changed = func(api.Lease) error { return errors.New("nobody takes it") }
		s.Keep(t.Context(), r)
		if len(b.renewed) != 1 || h.lost != 1 || h.ends != b.begin.Add(ttl) {
			t.Errorf("%d renewals, lost %d, failed %q, ends %s", len(b.renewed), h.lost, h.failed, h.ends.Sub(b.begin))
		}
	})
}

// TestKeepSpread renews no two leases at the same time, and each between 17/30
// and two thirds of its time.
func TestKeepSpread(t *testing.T) {
	at := map[time.Duration]int{}
	for range 50 {
		synctest.Test(t, func(t *testing.T) {
			b := &renewer{max: 2 * ttl}
			h := &heard{}
			b.session(t, "first", 0).Keep(t.Context(), h.renewals(false))
			first := b.renewed[0].Sub(b.begin)
			if at[first]++; first > ttl*2/3 || first < ttl*17/30 {
				t.Errorf("renewed after %s", first)
			}
		})
	}
	if len(at) < 40 {
		t.Errorf("of 50 renewals only %d are at different times", len(at))
	}
}
