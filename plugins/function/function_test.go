package function_test

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/brevet-dev/brevet/broker/api"
	"github.com/brevet-dev/brevet/plugins/exchange"
	"github.com/brevet-dev/brevet/plugins/function"
)

func TestRefreshInTheBackground(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		s := open(t, f, f.options())
		want(t, s, "1")
		time.Sleep(8 * time.Minute)
		want(t, s, "1")
		time.Sleep(2*time.Minute + time.Second) // two thirds of 15 minutes
		synctest.Wait()
		before, _, _ := f.counts()
		want(t, s, "2")
		if after, _, _ := f.counts(); before != 2 || after != 2 {
			t.Errorf("%d exchanges before Get and %d after it, want 2", before, after)
		}
		if f.live() != 2 {
			t.Errorf("%d sessions live, want 2: somebody may be at work with the first", f.live())
		}
		if err := s.Close(t.Context()); err != nil || f.live() != 0 {
			t.Errorf("Close = %v, and %d sessions live", err, f.live())
		}
		if _, err := value(s); !errors.Is(err, function.ErrClosed) {
			t.Errorf("Get after Close = %v", err)
		}
	})
}

// TestOutage: what is in force is served while the broker is down, and nothing
// after its end.
func TestOutage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		var heard []error
		o := f.options()
		o.OnError = func(err error) { f.set(func() { heard = append(heard, err) }) }
		s := open(t, f, o)
		f.set(func() { f.down = true })
		time.Sleep(15*time.Minute - function.LeastLeft - 10*time.Second)
		start := time.Now()
		want(t, s, "1")
		if d := time.Since(start); d > 2*time.Second {
			t.Errorf("Get took %v while the broker was down", d)
		}
		time.Sleep(10 * time.Second)
		if got, err := value(s); err == nil {
			t.Errorf("Get after the end of the lease = %q", got)
		}
		f.set(func() {
			f.down = false
			if len(heard) == 0 {
				t.Error("OnError was not called")
			}
		})
		time.Sleep(time.Minute)
		want(t, s, "2")
	})
}

// TestThaw: hours pass between two lines, and only the wall clock knows.
func TestThaw(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, box := newFake(), &sandbox{}
		s := open(t, f, f.options().On(none, box.now, "", ""))
		want(t, s, "1")
		box.freeze(f, 5*time.Hour)
		want(t, s, "2")
		if f.idle == 0 {
			t.Error("the connections from before the freeze were kept")
		}
		f.set(func() { f.down = true })
		box.freeze(f, 5*time.Hour)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if c, err := s.Get(ctx, "database"); err == nil {
			t.Errorf("Get after a freeze, without a broker = %v", c)
		}
	})
}

// TestThawWithinTheLife: what a short freeze leaves in force is handed out at once,
// when the broker has said that nothing was revoked.
func TestThawWithinTheLife(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, box := newFake(), &sandbox{}
		s := open(t, f, f.options().On(none, box.now, "", ""))
		box.freeze(f, 5*time.Minute)
		want(t, s, "1")
		if exchanges, _, questions := f.counts(); exchanges != 1 || questions != 1 {
			t.Errorf("%d exchanges, %d questions; want 1, 1", exchanges, questions)
		}
	})
}

// TestManyAfterAThaw: while one asks what was revoked, nobody has it.
func TestManyAfterAThaw(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, box := newFake(), &sandbox{}
		s := open(t, f, f.options().On(none, box.now, "", ""))
		ponder := make(chan struct{})
		f.set(func() { f.sessions[0].dead["database"], f.ponder = true, ponder })
		box.freeze(f, 2*time.Minute)
		var all sync.WaitGroup
		for range 1000 {
			all.Go(func() { want(t, s, "2") })
		}
		synctest.Wait()
		close(ponder)
		all.Wait()
		if exchanges, _, questions := f.counts(); exchanges != 2 || questions != 1 {
			t.Errorf("%d exchanges, %d questions; want 2, 1", exchanges, questions)
		}
	})
}

// TestThawInAnOutage: a freeze ends what is known of one.
func TestThawInAnOutage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, box := newFake(), &sandbox{}
		s := open(t, f, f.options().On(none, box.now, "", ""))
		f.set(func() { f.swallow = true })
		time.Sleep(70 * time.Second)
		want(t, s, "1") // it is in force, as far as anybody knows
		ponder := make(chan struct{})
		f.set(func() { f.swallow, f.sessions[0].dead["database"], f.ponder = false, true, ponder })
		box.freeze(f, time.Minute)
		var all sync.WaitGroup
		for range 100 {
			all.Go(func() { want(t, s, "2") })
		}
		synctest.Wait()
		close(ponder)
		all.Wait()
	})
}

// TestThawDuringAQuestion: what was asked before the freeze tells nothing after it.
func TestThawDuringAQuestion(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, box := newFake(), &sandbox{}
		s := open(t, f, f.options().On(none, box.now, "", ""))
		time.Sleep(61 * time.Second)
		f.set(func() { f.swallow = true })
		var all sync.WaitGroup
		all.Go(func() { want(t, s, "2") })
		synctest.Wait() // it waits for an answer
		ponder := make(chan struct{})
		f.set(func() { f.swallow, f.sessions[0].dead["database"], f.ponder = false, true, ponder })
		box.freeze(f, 2*time.Minute)
		for range 100 {
			all.Go(func() { want(t, s, "2") })
		}
		synctest.Wait()
		close(ponder)
		all.Wait()
	})
}

// TestStoppedDuringAQuestion: a process that was stopped reads an answer that was made
// long ago, and all its clocks have gone on.
func TestStoppedDuringAQuestion(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		s := open(t, f, f.options())
		time.Sleep(61 * time.Second)
		late := make(chan struct{})
		f.set(func() { f.late = late })
		var all sync.WaitGroup
		all.Go(func() { want(t, s, "2") })
		synctest.Wait() // it waits for the answer
		f.set(func() { f.sessions[0].dead["database"], f.late = true, nil })
		time.Sleep(5 * time.Minute)
		close(late)
		all.Wait()
	})
}

// TestClockSetBack: then nobody can tell how long a freeze was.
func TestClockSetBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, box := newFake(), &sandbox{}
		s := open(t, f, f.options().On(none, box.now, "", ""))
		box.set(-time.Hour)
		synctest.Wait()
		c, err := s.Get(t.Context(), "database")
		if err != nil || c.LeaseID != "lease-database-2" {
			t.Errorf("Get = %+v, %v; want another lease", c, err)
		}
	})
}

// TestThawDuringAnExchange: its connection is dead, and nobody waits for it.
func TestThawDuringAnExchange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, box := newFake(), &sandbox{}
		s := open(t, f, f.options().On(none, box.now, "", ""))
		box.freeze(f, time.Hour)
		f.set(func() { f.swallow = true })
		first := make(chan error, 1)
		go func() { _, err := value(s); first <- err }()
		synctest.Wait() // it hangs in an exchange
		f.set(func() { f.swallow = false })
		box.freeze(f, time.Hour)
		start := time.Now()
		want(t, s, "2")
		if err := <-first; err != nil {
			t.Errorf("who waited from before the freeze has %v", err)
		}
		if d := time.Since(start); d > 6*time.Second {
			t.Errorf("took %v", d)
		}
	})
}

// TestSlowAnswerIsCountedFromItsRequest: a freeze between request and answer.
func TestSlowAnswerIsCountedFromItsRequest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, box := newFake(), &sandbox{}
		f.hold = make(chan struct{})
		o := f.options().On(none, box.now, "", "")
		made := make(chan *function.Set)
		go func() {
			s, err := o.New(t.Context(), brokerURL, "database")
			if err != nil {
				t.Error(err)
			}
			made <- s
		}()
		synctest.Wait()
		hold := f.hold
		f.set(func() { f.hold = nil })
		box.set(time.Hour) // the answer was made before
		close(hold)
		s := <-made
		defer s.Close(context.Background())
		want(t, s, "2")
	})
}

func TestOneExchangeForAThousandCalls(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		o := f.options()
		o.Source = nil
		s := open(t, f, o.On(env("VERCEL", "1"), nil, "", ""))
		if exchanges, tries, _ := f.counts(); exchanges != 0 || tries != 0 {
			t.Fatal("there was an exchange before the first request")
		}
		if _, err := value(s); !errors.Is(err, function.ErrNoRequest) || !strings.Contains(err.Error(), "function.WithRequest") {
			t.Errorf("Get without a request = %v", err)
		}
		r, err := http.NewRequest(http.MethodGet, "https://shop.example.com", nil)
		if err != nil {
			t.Fatal(err)
		}
		token := requestToken(brokerURL, time.Now().Add(2*time.Hour))
		r.Header.Set("x-vercel-oidc-token", token)
		ctx := function.WithRequest(t.Context(), r)
		hold := make(chan struct{})
		f.set(func() { f.hold = hold })
		var all sync.WaitGroup
		for range 1000 {
			all.Go(func() {
				if _, err := s.Get(ctx, "database"); err != nil {
					t.Error(err)
				}
			})
		}
		synctest.Wait()
		f.set(func() { f.hold = nil })
		close(hold)
		all.Wait()
		if exchanges, tries, _ := f.counts(); exchanges != 1 || tries != 1 || f.seen()[0] != token {
			t.Errorf("%d exchanges in %d tries; want 1 with the request's token", exchanges, tries)
		}
		time.Sleep(11 * time.Minute)
		want(t, s, "2") // refreshed with the last token seen
	})
}

// requestToken is a token as Vercel's requests bring, for an audience.
func requestToken(audience string, expires time.Time) string {
	payload := fmt.Sprintf(`{"aud":%q,"exp":%d,"sub":%q}`, audience, expires.Unix(), canary)
	return "eyJ." + base64.RawURLEncoding.EncodeToString([]byte(payload)) + ".c2ln"
}

// TestNoRequestForLong: what came with the last request is over, nobody waits for a
// refresh that cannot be, and the next request has one at once.
func TestNoRequestForLong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		heard := 0
		o := f.options()
		o.Source, o.OnError = nil, func(error) { f.set(func() { heard++ }) }
		s := open(t, f, o.On(env("VERCEL", "1"), nil, "", ""))
		get := func(life time.Duration) (string, error) {
			r := &http.Request{Header: http.Header{"X-Vercel-Oidc-Token": {requestToken(brokerURL, time.Now().Add(life))}}}
			c, err := s.Get(function.WithRequest(t.Context(), r), "database")
			if err != nil {
				return "", err
			}
			return c.LeaseID, nil
		}
		if id, err := get(8 * time.Minute); err != nil || id != "lease-database-1" {
			t.Fatalf("Get = %s, %v", id, err)
		}
		time.Sleep(13 * time.Minute) // a refresh was due at ten
		want(t, s, "1")
		f.set(func() {
			if heard < 5 || heard > 20 || len(f.tokens) != 1 {
				t.Errorf("in three minutes OnError was called %d times, and there were %d exchanges", heard, len(f.tokens))
			}
		})
		time.Sleep(3 * time.Minute)
		if _, err := value(s); !errors.Is(err, function.ErrNoRequest) {
			t.Errorf("Get after the end, without a request = %v", err)
		}
		if id, err := get(time.Hour); err != nil || id != "lease-database-2" {
			t.Errorf("Get with a request = %s, %v; want another lease at once", id, err)
		}
	})
}

// TestRevoked: within MaxStale of an operator's order nobody has what was revoked.
func TestRevoked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		s := open(t, f, f.options())
		want(t, s, "1")
		f.set(func() { f.sessions[0].dead["database"] = true })
		time.Sleep(61 * time.Second)
		want(t, s, "2")
		f.set(func() {
			f.sessions[1].revoked = true
			f.refuse = &api.Error{Code: api.CodeInvalidTarget, Description: "an operator has blocked it", RequestID: "req-9"}
		})
		time.Sleep(61 * time.Second)
		_, err := value(s)
		if err == nil || !strings.Contains(err.Error(), "blocked") || !strings.Contains(err.Error(), "req-9") {
			t.Errorf("Get of what was revoked and blocked = %v", err)
		}
	})
}

// TestBusyFunctionsDoNotWait: while a function is at work the question is asked in
// the background, and nobody asks while it is idle.
func TestBusyFunctionsDoNotWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		s := open(t, f, f.options())
		for range 300 {
			time.Sleep(time.Second)
			start := time.Now()
			want(t, s, "1")
			if d := time.Since(start); d > 0 {
				t.Fatalf("Get waited %v", d)
			}
		}
		_, _, busy := f.counts()
		time.Sleep(4 * time.Minute)
		if _, _, idle := f.counts(); busy < 5 || busy > 20 || idle > busy+2 {
			t.Errorf("%d questions in five busy minutes, %d more in idle ones", busy, idle-busy)
		}
	})
}

// TestUnansweredQuestions delay one call in five seconds, by two.
func TestUnansweredQuestions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		s := open(t, f, f.options())
		f.set(func() { f.swallow = true })
		time.Sleep(2 * time.Minute)
		waits := func() (all time.Duration) {
			var many sync.WaitGroup
			var mu sync.Mutex
			for range 100 {
				many.Go(func() {
					start := time.Now()
					want(t, s, "1")
					mu.Lock()
					defer mu.Unlock()
					all += time.Since(start)
				})
			}
			many.Wait()
			return all
		}
		if d := waits(); d > 100*2*time.Second {
			t.Errorf("the first hundred waited %v", d)
		}
		if d := waits(); d > 0 {
			t.Errorf("the next waited %v", d)
		}
		for range 5 {
			time.Sleep(6 * time.Second)
			if d := waits(); d > 2*time.Second {
				t.Errorf("a hundred calls in an outage that is known waited %v, want one of them for two seconds", d)
			}
		}
	})
}

// TestSignsOfLife vouch for what is in force, unless there was a freeze.
func TestSignsOfLife(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, box := newFake(), &sandbox{}
		o := f.options()
		o.Listen = true
		s := open(t, f, o.On(none, box.now, "", ""))
		for range 300 {
			time.Sleep(time.Second)
			want(t, s, "1")
		}
		if _, _, questions := f.counts(); questions != 0 || f.streams != 1 {
			t.Errorf("%d questions and %d streams while the broker told all; want 0, 1", questions, f.streams)
		}
		f.set(func() { f.sessions[0].dead["database"] = true }) // and its event is late
		box.freeze(f, 40*time.Second)
		time.Sleep(16 * time.Second)
		synctest.Wait()
		if _, _, questions := f.counts(); questions < 1 || questions > 2 {
			t.Errorf("%d questions after a freeze, want one or two", questions)
		}
		want(t, s, "2")
		time.Sleep(5 * time.Second)
		synctest.Wait()
		f.set(func() {
			if f.streams < 2 {
				t.Errorf("%d streams, want another in the place of the one that was behind", f.streams)
			}
		})
	})
}

// TestStreamThatIsKeptBack: signs of life come from a stream that something slows
// down, and what was revoked does not come behind them.
func TestStreamThatIsKeptBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		f.slow = 9 * time.Second
		o := f.options()
		o.Listen = true
		s := open(t, f, o)
		f.set(func() { f.sessions[0].dead["database"] = true })
		began := time.Now()
		for {
			if got, err := value(s); err != nil || got != "1" {
				break
			}
			time.Sleep(time.Second)
		}
		if used := time.Since(began); used > 100*time.Second {
			t.Errorf("what was revoked was handed out for %v", used)
		}
	})
}

// TestSignsOfNobody: what gives signs of life faster than a broker is none.
func TestSignsOfNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		f.slow = -10 * time.Second
		o := f.options()
		o.Listen = true
		s := open(t, f, o)
		time.Sleep(10 * time.Second)
		f.set(func() { f.sessions[0].dead["database"] = true })
		time.Sleep(50 * time.Second)
		want(t, s, "2")
	})
}

// TestHungBroker: who has no time to wait has what is in force.
func TestHungBroker(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		s := open(t, f, f.options())
		f.set(func() { f.swallow = true })
		time.Sleep(2 * time.Minute)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		start := time.Now()
		if _, err := s.Get(ctx, "database"); err != nil || time.Since(start) > 500*time.Millisecond {
			t.Errorf("Get = %v after %v", err, time.Since(start))
		}
		cancel()
		time.Sleep(10 * time.Second)
		if _, err := s.Get(ctx, "database"); !errors.Is(err, context.Canceled) {
			t.Errorf("Get with a context that is over = %v", err)
		}
	})
}

// TestEvents obeys what the broker tells, and listens to each session in turn.
func TestEvents(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		o := f.options()
		o.Listen, o.MaxStale = true, -1
		s := open(t, f, o)
		for i, event := range []string{
			"event: rotated\ndata: {\"signing_key\": \"x\"}", "event: revoked\ndata: {\"lease_id\": \"another\"}",
			"event: revoked\ndata: {\"lease_id\": \"lease-database-1\"}", "event: revoked\ndata: {\"session\": true}",
		} {
			time.Sleep(time.Second)
			synctest.Wait()
			if _, err := io.WriteString(f.stream, event+"\n\n"); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
			want(t, s, strconv.Itoa(max(1, i)))
			time.Sleep(10 * time.Second)
		}
	})
}

// TestNoEvents asks a broker that has none, as if Listen had not been set.
func TestNoEvents(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		f.deaf = true
		heard := make(chan error, 1)
		o := f.options()
		o.Listen, o.OnError = true, func(err error) { heard <- err }
		s := open(t, f, o)
		if err := <-heard; !errors.Is(err, exchange.ErrNoEvents) {
			t.Errorf("OnError(%v)", err)
		}
		f.set(func() { f.sessions[0].dead["database"], f.deaf = true, false })
		time.Sleep(61 * time.Second)
		want(t, s, "2")
		time.Sleep(time.Second)
		synctest.Wait()
		f.set(func() {
			if f.streams != 1 {
				t.Errorf("%d streams when there are events again, want 1", f.streams)
			}
		})
	})
}

func TestHeartbeat(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, box := newFake(), &sandbox{}
		f.heartbeat = 30 * time.Second
		s := open(t, f, f.options().On(none, box.now, "", ""))
		time.Sleep(5 * time.Minute)
		want(t, s, "1")
		if f.beats < 20 {
			t.Errorf("%d heartbeats in five minutes, want one in ten seconds", f.beats)
		}
		box.freeze(f, time.Minute)
		want(t, s, "2") // the broker has ended the first
		f.set(func() { f.down = true })
		time.Sleep(35 * time.Second)
		if got, err := value(s); err == nil {
			t.Errorf("Get without a heartbeat = %q", got)
		}
	})
}

// TestCloseDuringAnExchange: what comes of it is given back, too, and who waits for
// it hears of the end.
func TestCloseDuringAnExchange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, box := newFake(), &sandbox{}
		s := open(t, f, f.options().On(none, box.now, "", ""))
		box.freeze(f, time.Hour)
		hold := make(chan struct{})
		f.set(func() { f.hold = hold })
		waiting := make(chan error, 1)
		go func() { _, err := value(s); waiting <- err }()
		synctest.Wait()
		closed := make(chan error, 1)
		go func() { closed <- s.Close(t.Context()) }()
		synctest.Wait()
		if err := <-waiting; !errors.Is(err, function.ErrClosed) {
			t.Errorf("Get during Close = %v", err)
		}
		close(hold)
		if err := <-closed; err != nil || f.live() != 0 {
			t.Errorf("Close = %v, and %d sessions live", err, f.live())
		}
		if exchanges, _, _ := f.counts(); exchanges != 2 {
			t.Errorf("%d exchanges, want 2", exchanges)
		}
	})
}

func TestBrokerDownAtInit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		f.down = true
		start := time.Now()
		_, err := f.options().New(t.Context(), brokerURL, "database")
		if !exchange.IsKind(err, exchange.Unavailable) || !strings.Contains(err.Error(), "check that the URL is right") {
			t.Errorf("New = %v", err)
		}
		if d := time.Since(start); d > 4500*time.Millisecond {
			t.Errorf("New took %v", d)
		}
		if _, tries, _ := f.counts(); tries < 4 {
			t.Errorf("%d tries in four and a half seconds", tries)
		}
		o := f.options()
		o.StartWithout = true
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		start = time.Now()
		s, err := o.New(ctx, brokerURL, "database")
		if err != nil || time.Since(start) > time.Second {
			t.Fatalf("New to start without = %v after %v", err, time.Since(start))
		}
		defer s.Close(context.Background())
		ctx, cancel = context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := s.Get(ctx, "database"); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Get while the broker is down = %v", err)
		}
		f.set(func() { f.down = false })
		want(t, s, "1")
	})
}

// TestDenied: a refusal is no reason to start without, and not asked for again by
// each call.
func TestDenied(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		f.refuse = &api.Error{Code: api.CodeInvalidTarget, Description: "no policy grants it", RequestID: "req-1"}
		o := f.options()
		o.StartWithout = true
		_, err := o.New(t.Context(), brokerURL, "database")
		if !exchange.IsKind(err, exchange.Denied) || !strings.Contains(err.Error(), "under request req-1") {
			t.Errorf("New = %v", err)
		}
		f.set(func() { f.refuse = nil })
		s := open(t, f, f.options())
		f.set(func() { f.refuse = &api.Error{Code: api.CodeInvalidTarget} })
		time.Sleep(16 * time.Minute)
		_, before, _ := f.counts()
		for range 100 {
			if got, err := value(s); err == nil {
				t.Fatalf("Get after the end = %q", got)
			}
		}
		if _, after, _ := f.counts(); after > before+1 {
			t.Errorf("%d exchanges for 100 calls", after-before)
		}
	})
}

// TestClockSkew: this machine's clock is wrong, and neither are proofs refused for
// good nor credentials used for too long, or thrown away.
func TestClockSkew(t *testing.T) {
	for _, ahead := range []time.Duration{-time.Hour, -30 * time.Second, 30 * time.Second, time.Hour} {
		t.Run(ahead.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFake()
				f.ahead = ahead
				s := open(t, f, f.options())
				c, err := s.Get(t.Context(), "database")
				if err != nil {
					t.Fatal(err)
				}
				if left := time.Until(c.ExpiresAt); left > 15*time.Minute || left < 14*time.Minute {
					t.Errorf("it is said to end in %v", left)
				}
				f.set(func() { f.down = true })
				time.Sleep(14 * time.Minute)
				want(t, s, "1")
				time.Sleep(time.Minute - function.LeastLeft)
				if got, err := value(s); err == nil {
					t.Errorf("Get at the end = %q", got)
				}
			})
		})
	}
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		f.ahead = 24 * time.Hour
		_, err := f.options().New(t.Context(), brokerURL, "database")
		if err == nil || !strings.Contains(err.Error(), "clock is wrong") {
			t.Errorf("New on a machine a day behind = %v", err)
		}
	})
}

// TestBadAnswers: none is used, and none is tried again that would be the same.
func TestBadAnswers(t *testing.T) {
	for name, raw := range map[string][]byte{
		"ten megabytes": []byte(strings.Repeat(" ", 10<<20)),
		"no JSON":       []byte(canary),
		"in clear":      []byte(`{"access_token": "x", "token_type": "DPoP", "leases": [{"lease_id": "l", "credential": "database"}]}`),
		"nothing":       {},
	} {
		synctest.Test(t, func(t *testing.T) {
			f := newFake()
			f.raw = raw
			_, err := f.options().New(t.Context(), brokerURL, "database")
			if !exchange.IsKind(err, exchange.Protocol) || strings.Contains(err.Error(), canary) {
				t.Errorf("%s: New = %v", name, err)
			}
			if _, tries, _ := f.counts(); tries != 1 {
				t.Errorf("%s: %d tries", name, tries)
			}
		})
	}
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		f.life = 0
		if _, err := f.options().New(t.Context(), brokerURL, "database"); !exchange.IsKind(err, exchange.Protocol) || f.live() != 0 {
			t.Errorf("New with a lease that is over = %v, and %d sessions live", err, f.live())
		}
	})
}

func TestWrongUse(t *testing.T) {
	f := newFake()
	for _, names := range [][]string{nil, {""}, {"a b"}, {"a", "a"}, make([]string, 33)} {
		if _, err := f.options().New(t.Context(), brokerURL, names...); !exchange.IsKind(err, exchange.Misconfigured) {
			t.Errorf("New(%q) = %v", names, err)
		}
	}
	if _, err := f.options().New(t.Context(), brokerURL+"/", "database"); !exchange.IsKind(err, exchange.Misconfigured) {
		t.Errorf("New with a slash = %v", err)
	}
	s := open(t, f, f.options())
	if _, err := s.Get(t.Context(), "another"); err == nil {
		t.Error("Get of what was not asked for succeeded")
	}
	c, err := s.Get(t.Context(), "database")
	if err != nil {
		t.Fatal(err)
	}
	if v, err := c.Value("password"); err == nil || !v.IsZero() || !strings.Contains(err.Error(), "token") {
		t.Errorf("Value of what is not there = %v, %v", v, err)
	}
}

// TestSecretsDoNotPrint prints all that a function has in hand.
func TestSecretsDoNotPrint(t *testing.T) {
	f := newFake()
	s := open(t, f, f.options())
	c, err := s.Get(t.Context(), "database")
	if err != nil {
		t.Fatal(err)
	}
	v, err := c.Value("token")
	if err != nil || !strings.Contains(v.Reveal(), canary) {
		t.Fatalf("Value = %v, %v", v, err)
	}
	var out strings.Builder
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x"} {
		for _, what := range []any{s, c, *c, v, []any{c, v}, map[string]any{"s": s}} {
			fmt.Fprintf(&out, verb+"\n", what)
		}
	}
	for _, what := range []any{c, v} {
		data, err := json.Marshal(what)
		if err != nil {
			t.Fatal(err)
		}
		out.Write(data)
	}
	if strings.Contains(out.String(), canary) || strings.Contains(out.String(), fmt.Sprintf("%x", canary)) {
		t.Error("a secret was printed")
	}
}

func BenchmarkGet(b *testing.B) {
	f := newFake()
	s, err := f.options().New(b.Context(), brokerURL, "database")
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close(context.Background())
	b.ReportAllocs()
	for b.Loop() {
		c, err := s.Get(b.Context(), "database")
		if err != nil {
			b.Fatal(err)
		}
		if v, err := c.Value("token"); err != nil || v.IsZero() {
			b.Fatal(err)
		}
	}
}

// BenchmarkMap is what a function would do by itself: a secret in a map, under a lock.
func BenchmarkMap(b *testing.B) {
	var mu sync.Mutex
	secrets := map[string]map[string]function.Secret{"database": {"token": api.NewSecret(canary)}}
	get := func(credential, name string) function.Secret {
		mu.Lock()
		defer mu.Unlock()
		return secrets[credential][name]
	}
	for b.Loop() {
		if get("database", "token").IsZero() {
			b.Fatal("no secret")
		}
	}
}

func none(string) string { return "" }

// env returns an environment of pairs of name and value.
func env(pairs ...string) func(string) string {
	return func(name string) string {
		for i := 0; i+1 < len(pairs); i += 2 {
			if pairs[i] == name {
				return pairs[i+1]
			}
		}
		return ""
	}
}

// TestNoSource: without a source there is nothing to look for one.
func TestNoSource(t *testing.T) {
	o := newFake().options()
	o.Source = nil
	if s, err := o.NewWithSource(t.Context(), brokerURL, "database"); s != nil || !exchange.IsKind(err, exchange.Misconfigured) {
		t.Errorf("NewWithSource = %v, %v", s, err)
	}
}

// TestRefresh: what is due is done when the platform says that it will freeze.
func TestRefresh(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, box := newFake(), &sandbox{}
		s := open(t, f, f.options().On(none, box.now, "", ""))
		wantCounts := func(exchanges, questions int) {
			t.Helper()
			if err := s.Refresh(t.Context()); err != nil {
				t.Errorf("Refresh = %v", err)
			}
			if e, _, q := f.counts(); e != exchanges || q != questions {
				t.Errorf("%d exchanges, %d questions; want %d, %d", e, q, exchanges, questions)
			}
		}
		wantCounts(1, 0) // nothing is due
		box.freeze(f, 5*time.Minute)
		wantCounts(1, 1)
		box.freeze(f, 7*time.Minute)
		wantCounts(2, 1) // two thirds of the time are over
		box.freeze(f, time.Hour)
		wantCounts(3, 1)
		box.freeze(f, time.Hour)
		f.set(func() { f.swallow = true })
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		start := time.Now()
		if err := s.Refresh(ctx); !errors.Is(err, context.DeadlineExceeded) || time.Since(start) != time.Second {
			t.Errorf("Refresh of a broker that does not answer = %v, after %s", err, time.Since(start))
		}
	})
}

// TestRefreshAfterAFailure does not try at once.
func TestRefreshAfterAFailure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, box := newFake(), &sandbox{}
		s := open(t, f, f.options().On(none, box.now, "", ""))
		box.freeze(f, time.Hour)
		f.set(func() { f.refuse = &api.Error{Code: api.CodeInvalidTarget} })
		if err := s.Refresh(t.Context()); !exchange.IsKind(err, exchange.Denied) {
			t.Errorf("Refresh = %v", err)
		}
		f.set(func() { f.refuse = nil })
		_, before, _ := f.counts()
		if err := s.Refresh(t.Context()); !exchange.IsKind(err, exchange.Denied) {
			t.Errorf("Refresh at once = %v", err)
		}
		if _, after, _ := f.counts(); after != before {
			t.Error("it was tried again at once")
		}
	})
}

// TestPeek asks nobody.
func TestPeek(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, box := newFake(), &sandbox{}
		o := f.options().On(none, box.now, "", "")
		o.Later = true
		s := open(t, f, o)
		if c := s.Peek("database"); c != nil {
			t.Errorf("Peek before an exchange = %v", c)
		}
		want(t, s, "1")
		if c := s.Peek("database"); c == nil || c.LeaseID != "lease-database-1" {
			t.Errorf("Peek = %v", c)
		}
		if c := s.Peek("other"); c != nil {
			t.Errorf("Peek of another = %v", c)
		}
		box.freeze(f, time.Hour)
		if c := s.Peek("database"); c != nil {
			t.Errorf("Peek after its end = %v", c)
		}
		if exchanges, _, questions := f.counts(); exchanges != 1 || questions != 0 {
			t.Errorf("%d exchanges, %d questions; want 1, 0", exchanges, questions)
		}
	})
}

// TestCloseAfterAFreeze: connections from before it may be dead.
func TestCloseAfterAFreeze(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, box := newFake(), &sandbox{}
		s := open(t, f, f.options().On(none, box.now, "", ""))
		box.freeze(f, time.Hour)
		if err := s.Close(t.Context()); err != nil || f.idle == 0 || f.live() != 0 {
			t.Errorf("Close = %v; connections closed: %d; %d sessions live", err, f.idle, f.live())
		}
	})
}
