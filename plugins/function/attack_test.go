package function_test

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/brevet-dev/brevet/broker/api"
	"github.com/brevet-dev/brevet/plugins/exchange"
	"github.com/brevet-dev/brevet/plugins/function"
)

// TestLies: a broker whose answer is not as asked for, or of another time, is not
// believed, and what it granted is given back.
func TestLies(t *testing.T) {
	at := func(when time.Time) func(*api.TokenResponse) {
		return func(r *api.TokenResponse) { r.Leases[0].ExpiresAt, r.ExpiresIn = when, 0 }
	}
	for name, lie := range map[string]func(*api.TokenResponse){
		"no end":                 at(time.Time{}),
		"a distant past":         at(time.Date(1, 1, 1, 0, 0, 0, 0, time.UTC)),
		"before 1970":            at(time.Unix(-1, 0)),
		"now":                    func(r *api.TokenResponse) { r.Leases[0].ExpiresAt = time.Now() },
		"no end, but life":       func(r *api.TokenResponse) { r.Leases[0].ExpiresAt = time.Time{} },
		"a session that is over": func(r *api.TokenResponse) { r.ExpiresIn = -1 },
		"another":                func(r *api.TokenResponse) { r.Leases[0].Credential = "another" },
		"twice":                  func(r *api.TokenResponse) { r.Leases[1] = r.Leases[0] },
		"one more":               func(r *api.TokenResponse) { r.Leases = append(r.Leases, r.Leases[0]) },
		"one less":               func(r *api.TokenResponse) { r.Leases = r.Leases[:1] },
		"no id":                  func(r *api.TokenResponse) { r.Leases[0].LeaseID = "" },
		"a bearer session":       func(r *api.TokenResponse) { r.TokenType = "Bearer" },
		"a heartbeat back":       func(r *api.TokenResponse) { r.Leases[0].Heartbeat = -time.Minute },
		"a value that is not there": func(r *api.TokenResponse) {
			r.Leases[0].Env = map[string]string{"PASSWORD": "password"}
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFake()
				f.lie = lie
				s, err := f.options().New(t.Context(), brokerURL, "database", "queue")
				if err == nil {
					defer s.Close(context.Background())
				}
				if !exchange.IsKind(err, exchange.Protocol) || f.live() != 0 {
					t.Errorf("New = %v, and %d sessions live", err, f.live())
				}
			})
		})
	}
}

// TestDistantEnd: a lease that is said to last for ever lasts as its session, and the
// sums of times stay in range.
func TestDistantEnd(t *testing.T) {
	for _, expires := range []int64{0, 900, 1 << 62} {
		synctest.Test(t, func(t *testing.T) {
			f := newFake()
			f.lie = func(r *api.TokenResponse) {
				r.ExpiresIn = expires
				for i := range r.Leases {
					r.Leases[i].ExpiresAt = time.Date(9999, 12, 31, 0, 0, 0, 0, time.UTC)
				}
			}
			s := open(t, f, f.options())
			want(t, s, "1")
			c, err := s.Get(t.Context(), "database")
			if err != nil || c.ExpiresAt.Before(time.Now()) || expires == 900 && time.Until(c.ExpiresAt) > 15*time.Minute {
				t.Errorf("with expires_in %d: it ends %v, %v", expires, c.ExpiresAt, err)
			}
			if names := c.Names(); !slices.Equal(names, []string{"token"}) {
				t.Errorf("it has %v", names)
			}
		})
	}
}

// refreshing returns when an exchange after the first is on its way.
func refreshing(f *fake) {
	for {
		if _, tries, _ := f.counts(); tries > 1 {
			return
		}
		time.Sleep(time.Second)
	}
}

// TestCloseDoesNotWait: what is known to live is given back while an exchange on its
// way is still waited for: a sandbox has two seconds at its end.
func TestCloseDoesNotWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		s := open(t, f, f.options())
		hold := make(chan struct{})
		f.set(func() { f.hold = hold })
		refreshing(f)
		closed := make(chan error, 1)
		go func() { closed <- s.Close(context.Background()) }()
		synctest.Wait()
		if n := f.live(); n != 0 {
			t.Errorf("%d sessions live while an exchange is waited for", n)
		}
		close(hold)
		if err := <-closed; err != nil || f.live() != 0 {
			t.Errorf("Close = %v, and %d sessions live", err, f.live())
		}
		if exchanges, _, _ := f.counts(); exchanges != 2 {
			t.Errorf("%d exchanges, want 2", exchanges)
		}
		if got, err := value(s); !errors.Is(err, function.ErrClosed) {
			t.Errorf("Get after Close = %q, %v", got, err)
		}
	})
}

// TestCloseAfterAFreezeInAnExchange: neither connection is of use any more, that of the
// exchange and the idle ones.
func TestCloseAfterAFreezeInAnExchange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, box := newFake(), &sandbox{}
		s := open(t, f, f.options().On(none, box.now, "", ""))
		f.set(func() { f.swallow = true })
		refreshing(f)
		f.set(func() { f.swallow = false })
		box.freeze(f, time.Hour)
		closed := make(chan error, 1)
		go func() { closed <- s.Close(context.Background()) }()
		time.Sleep(time.Second)
		live := f.live()
		f.set(func() {
			if f.idle == 0 || live != 0 {
				t.Errorf("a second into Close: idle connections closed %d times, %d sessions live", f.idle, live)
			}
		})
		if err := <-closed; err != nil {
			t.Errorf("Close = %v", err)
		}
	})
}

// TestNothingAfterClose: what an exchange brings after Close began is not handed out.
func TestNothingAfterClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		s := open(t, f, f.options())
		hold := make(chan struct{})
		f.set(func() { f.hold = hold })
		refreshing(f)
		closed := make(chan error, 1)
		go func() { closed <- s.Close(context.Background()) }()
		synctest.Wait()
		for range 1000 {
			if got, err := value(s); err == nil {
				t.Errorf("Get during Close = %q", got)
				break
			}
		}
		close(hold)
		if err := <-closed; err != nil {
			t.Errorf("Close = %v", err)
		}
	})
}

// TestCopiesShareNoKey: what is copied before its first exchange has no key in it that
// the sessions of all copies would be bound to.
func TestCopiesShareNoKey(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		o := f.options()
		o.Later = true
		s := open(t, f, o)
		if s.HasKey() {
			t.Error("there is a key before the first exchange")
		}
		want(t, s, "1")
		if !s.HasKey() {
			t.Error("there is no key after it")
		}
		if _, err := o.New(t.Context(), brokerURL+"/", "database"); !exchange.IsKind(err, exchange.Misconfigured) {
			t.Errorf("New with a slash, later = %v", err)
		}
	})
}

// A silent platform does not answer.
type silent struct{}

func (silent) Token(ctx context.Context, _ string) (function.Secret, error) {
	<-ctx.Done()
	return function.Secret{}, ctx.Err()
}

// TestGetSaysWhy: a caller whose time is over, as that of an invocation, is told what
// kept it waiting.
func TestGetSaysWhy(t *testing.T) {
	for want, change := range map[string]func(*fake, *function.Options){
		"waiting for the broker: context deadline exceeded; before that: reaching the broker https://broker.example.com: connection refused": func(f *fake, _ *function.Options) { f.down = true },
		"; before that: the broker refused (503): temporarily_unavailable: too much at once":                                                 func(f *fake, _ *function.Options) { f.busy = true },
		"waiting for the broker: context deadline exceeded":                                                                                  func(f *fake, _ *function.Options) { f.swallow = true },
		"waiting for the platform's token: context deadline exceeded":                                                                        func(_ *fake, o *function.Options) { o.Source = silent{} },
	} {
		t.Run(want, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFake()
				o := f.options()
				o.Later = true
				change(f, &o)
				s := open(t, f, o)
				ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
				defer cancel()
				if _, err := s.Get(ctx, "database"); !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), want) {
					t.Errorf("Get = %v", err)
				}
			})
		})
	}
}

// TestHungAtInit: New without a deadline ends before Lambda ends the process, which
// leaves ten seconds, although an answer on its way is waited for.
func TestHungAtInit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, o := range []function.Options{{}, {Source: silent{}}} {
			f := newFake()
			f.swallow = true
			o.HTTPClient, o.Source = f.options().HTTPClient, cmp.Or[function.Source](o.Source, platform{})
			began := time.Now()
			s, err := o.New(context.Background(), brokerURL, "database")
			if took := time.Since(began); err == nil || took > 9600*time.Millisecond {
				t.Errorf("New = %v, %v after %v", s, err, took)
			}
		}
	})
}

// TestHoursOfFailure: a broker that fails for hours is not asked without end, nothing grows
// meanwhile, and when it is well again there are credentials.
func TestHoursOfFailure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		heard, longest := 0, 0
		o := f.options()
		o.OnError = func(err error) { f.set(func() { heard, longest = heard+1, max(longest, len(err.Error())) }) }
		s := open(t, f, o)
		f.set(func() { f.down = true })
		for range 6 * 60 {
			time.Sleep(time.Minute)
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			if _, err := s.Get(ctx, "database"); err != nil {
				f.set(func() { longest = max(longest, len(err.Error())) })
			}
			cancel()
		}
		f.set(func() {
			if f.down = false; f.tries > 15_000 || heard > 2500 || longest > 1000 {
				t.Errorf("in six hours: %d tries, OnError %d times, an error of %d bytes", f.tries, heard, longest)
			}
		})
		time.Sleep(time.Minute)
		want(t, s, "2")
	})
}

// TestRestlessClock: a wall clock that jumps all the time costs exchanges, and hands out
// nothing that is over.
func TestRestlessClock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, box := newFake(), &sandbox{}
		s := open(t, f, f.options().On(none, box.now, "", ""))
		r := rand.New(rand.NewPCG(1, 2))
		for range 400 {
			if d := time.Duration(r.Int64N(int64(20*time.Minute))) - 5*time.Minute; d < 0 {
				box.set(d) // set back
			} else {
				box.freeze(f, d)
			}
			c, err := s.Get(t.Context(), "database")
			if err != nil {
				t.Fatal(err)
			}
			f.set(func() {
				if used := f.session(fmt.Sprint("session-", canary, "-", strings.TrimPrefix(c.LeaseID, "lease-database-"))); f.later().After(used.ends) {
					t.Errorf("%s was handed out %v after its end", c.LeaseID, f.later().Sub(used.ends))
				}
			})
		}
		if exchanges, _, _ := f.counts(); exchanges > 401 {
			t.Errorf("%d exchanges for 400 jumps", exchanges)
		}
	})
}

// TestClockSetBackAfterAFreeze: what the freeze added does not hide what was taken.
func TestClockSetBackAfterAFreeze(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, box := newFake(), &sandbox{}
		s := open(t, f, f.options().On(none, box.now, "", ""))
		box.freeze(f, 5*time.Minute)
		want(t, s, "1")
		box.set(-3 * time.Minute)
		want(t, s, "2")
		box.freeze(f, 20*time.Second)
		want(t, s, "2")
		box.set(-10 * time.Second)
		if err := s.Refresh(t.Context()); err != nil {
			t.Errorf("Refresh = %v", err)
		}
		if c := s.Peek("database"); c == nil || c.LeaseID != "lease-database-3" {
			t.Errorf("Peek = %v, want the third", c)
		}
	})
}
