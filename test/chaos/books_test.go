package chaos

import (
	"context"
	"errors"
	"fmt"
	mathrand "math/rand/v2"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/brevet-dev/brevet/broker"
	"github.com/brevet-dev/brevet/test/servers"
)

// books are what the jobs know: what they were answered, and what they ended.
type books struct {
	world *world

	mu       sync.Mutex
	answered map[string]*answer // by session
	failed   map[string]int     // errors of exchanges, by kind
	wrong    []string           // promises that were broken
}

// An answer is an exchange that was answered.
type answer struct {
	issued *broker.Issued
	job    *job
	ended  bool // a revocation was answered
}

func (b *books) breach(format string, args ...any) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.wrong = append(b.wrong, fmt.Sprintf(format, args...))
}

func (b *books) count() (answered, failed int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, n := range b.failed {
		failed += n
	}
	return len(b.answered), failed
}

// note counts an error; that of an exchange must be one to try again, or say
// that the token is spent by an exchange that failed.
func (b *books) note(err error) {
	kind := "unavailable"
	switch {
	case errors.Is(err, broker.ErrReplayed), errors.Is(err, broker.ErrEnded):
		kind = "spent"
	case !errors.Is(err, broker.ErrUnavailable):
		b.breach("an exchange failed with %v", err)
	case redis.IsOOMError(err):
		kind = "full"
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.failed == nil {
		b.failed = map[string]int{}
	}
	b.failed[kind]++
}

const workers = 8

// run starts the jobs and the sweepers.
func (w *world) run() {
	ctx, cancel := context.WithCancel(context.WithoutCancel(w.t.Context()))
	w.stop = cancel
	w.t.Cleanup(func() { cancel(); w.loops.Wait() })
	for range workers {
		w.loops.Go(func() {
			for ctx.Err() == nil {
				w.work(ctx)
			}
		})
	}
	for _, n := range w.brokers {
		w.loops.Go(func() { n.sweepUntil(ctx) })
	}
	w.loops.Go(func() { w.watch(ctx) })
}

func (n *node) sweepUntil(ctx context.Context) {
	tick := time.NewTicker(300 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			n.SweepOnce(ctx, time.Now().Add(n.skew)) // the next round mends what this could not
		}
	}
}

func (w *world) anyBroker() *node { return w.brokers[mathrand.IntN(len(w.brokers))] }

// work is one job, from its token to the end of its session.
func (w *world) work(ctx context.Context) {
	j, err := w.newJob()
	if err != nil {
		w.books.breach("making a job: %v", err)
		return
	}
	a := j.untilAnswered(ctx)
	if a == nil {
		return
	}
	// Whoever finds the token in a log gets nothing for it.
	if issued, err := j.exchange(context.WithoutCancel(ctx), w.anyBroker(), nil); err == nil {
		w.books.breach("a used token was exchanged again, for session %s", issued.Session.ID)
	}
	if mathrand.IntN(3) > 0 {
		a.revoke(ctx, w)
	}
}

// untilAnswered tries as the runner plugin does, for as long as it makes sense.
func (j *job) untilAnswered(ctx context.Context) *answer {
	for ctx.Err() == nil {
		issued, err := j.exchange(context.WithoutCancel(ctx), j.world.anyBroker(), j.key)
		if err == nil {
			a := &answer{issued: issued, job: j}
			j.world.books.mu.Lock()
			defer j.world.books.mu.Unlock()
			j.world.books.answered[issued.Session.ID] = a
			return a
		}
		j.world.books.note(err)
		if !errors.Is(err, broker.ErrUnavailable) {
			return nil
		}
		pause(ctx, 100*time.Millisecond)
	}
	return nil
}

func pause(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

// revoke tries until it is answered, also when the jobs are to stop: a
// revocation that failed may have happened.
func (a *answer) revoke(ctx context.Context, w *world) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
	defer cancel()
	for ctx.Err() == nil {
		if err := w.anyBroker().RevokeSession(ctx, a.issued.Token, "R"); err == nil {
			w.books.mu.Lock()
			defer w.books.mu.Unlock()
			a.ended = true
			return
		}
		pause(ctx, 100*time.Millisecond)
	}
	w.books.breach("session %s could not be revoked", a.issued.Session.ID)
}

// watch looks, all the time, for credentials that live without a lease that
// lives.
func (w *world) watch(ctx context.Context) {
	for ctx.Err() == nil {
		pause(ctx, 200*time.Millisecond)
		names, err := w.target.names(context.WithoutCancel(ctx))
		if err != nil {
			w.books.breach("listing credentials: %v", err)
			return
		}
		suspects := map[string]string{}
		for _, name := range sample(names, 50) {
			if why := w.leaseless(ctx, name); why != "" {
				suspects[name] = why
			}
		}
		if len(suspects) == 0 {
			continue
		}
		again, err := w.target.names(context.WithoutCancel(ctx)) // it may have been revoked meanwhile
		for _, name := range again {
			if why, ok := suspects[name]; ok && err == nil {
				w.books.breach("credential %s lives, and its lease %s", name, why)
			}
		}
	}
}

func sample(names []string, n int) []string {
	mathrand.Shuffle(len(names), func(i, j int) { names[i], names[j] = names[j], names[i] })
	return names[:min(n, len(names))]
}

// leaseless says why a credential has no lease, or "".
func (w *world) leaseless(ctx context.Context, id string) string {
	l, err := w.anyBroker().store.Lease(context.WithoutCancel(ctx), id)
	switch {
	case errors.Is(err, broker.ErrNotFound):
		return "is not there"
	case err == nil && !l.State.Live():
		return "is " + string(l.State)
	}
	return ""
}

// await waits until more exchanges were answered: the brokers are well.
func (w *world) await(more int) {
	w.t.Helper()
	before, _ := w.books.count()
	servers.Eventually(w.t, "exchanges are answered", func() error {
		if now, _ := w.books.count(); now < before+more {
			return fmt.Errorf("%d of %d", now-before, more)
		}
		return nil
	})
}

// close stops the jobs and compares the books. early says that a sweeper may
// have ended leases before their time.
func (w *world) close(early bool) {
	w.t.Helper()
	w.stop()
	w.loops.Wait()
	later := 2 * time.Minute // then what was half-done is due, and no lease of ten minutes
	if early {
		later = 0
	}
	w.settle(later, func(s broker.State) bool { return s == broker.Pending || s == broker.Revoking })
	states, err := w.states()
	if err != nil {
		w.t.Fatal(err)
	}
	live := w.living()
	w.compare(states, live, early)
	w.settle(3*time.Hour, func(broker.State) bool { return true })
	if rest := w.living(); len(rest) > 0 {
		w.t.Errorf("after the end of all leases %d credentials live", len(rest))
	}
	w.checkStores()
	w.checkAudit()
	answered, _ := w.books.count()
	w.t.Logf("%d exchanges answered; errors: %v; %d credentials minted, %d lived when the jobs stopped",
		answered, w.books.failed, len(w.target.history()), len(live))
	for _, wrong := range w.books.wrong {
		w.t.Error(wrong)
	}
}

// settle sweeps as if it were later, until no lease is in some states. It takes
// what sweepers have claimed and not finished: half a minute later they may.
func (w *world) settle(later time.Duration, unsettled func(broker.State) bool) {
	w.t.Helper()
	at := time.Now().Add(later)
	servers.Eventually(w.t, "all is settled", func() error {
		err := w.brokers[0].SweepOnce(w.t.Context(), at)
		if at.Before(time.Now().Add(later + 2*time.Minute)) {
			at = at.Add(31 * time.Second)
		}
		states, readErr := w.states()
		if err = errors.Join(err, readErr); err != nil {
			return err
		}
		for id, s := range states {
			if unsettled(s) {
				return fmt.Errorf("lease %s is %s", id, s)
			}
		}
		return nil
	})
}

// unsure is the state here of a lease that was ended while it was pending: it
// stays on record until its credential must have ended by itself.
const unsure = broker.State("unsure")

// states are the leases that live.
func (w *world) states() (map[string]broker.State, error) {
	out := map[string]broker.State{}
	return out, w.brokers[0].store.All(w.t.Context(), func(l *broker.Lease) error {
		if out[l.ID] = l.State; l.State == broker.Revoking && l.Unsure {
			out[l.ID] = unsure
		}
		return nil
	})
}

// living are the credentials that live.
func (w *world) living() map[string]bool {
	w.t.Helper()
	names, err := w.target.names(w.t.Context())
	if err != nil {
		w.t.Fatal(err)
	}
	out := map[string]bool{}
	for _, name := range names {
		out[name] = true
	}
	return out
}

// compare holds the leases and the credentials against what was answered.
func (w *world) compare(states map[string]broker.State, live map[string]bool, early bool) {
	w.t.Helper()
	held := map[string]bool{} // by jobs that did not give them back
	for id, a := range w.books.answered {
		for _, l := range a.issued.Session.Leases {
			held[l.ID] = !a.ended
			switch active := states[l.ID] == broker.Active; {
			case a.ended && live[l.ID]:
				w.t.Errorf("session %s was revoked, and credential %s lives", id, l.ID)
			case !a.ended && !early && !active:
				w.t.Errorf("session %s was answered and not revoked, and its lease %s is %q", id, l.ID, states[l.ID])
			case !a.ended && active && !live[l.ID]:
				w.t.Errorf("session %s was answered, its lease %s is active, and there is no credential", id, l.ID)
			}
		}
	}
	for name := range live {
		if states[name] != broker.Active {
			w.t.Errorf("credential %s lives, and its lease is %q", name, states[name])
		}
		if !held[name] {
			w.t.Errorf("credential %s lives, and nobody was given it", name)
		}
	}
}

// checkStores looks for what was put aside.
func (w *world) checkStores() {
	w.t.Helper()
	n := w.brokers[0]
	if stuck, err := n.store.Stuck(w.t.Context()); err != nil || stuck != 0 {
		w.t.Errorf("%d leases are stuck, %v", stuck, err)
	}
	for shard := range broker.Shards {
		ids, err := n.redis.SMembers(w.t.Context(), fmt.Sprintf("brevet:{%d}:quarantine", shard)).Result()
		if err != nil || len(ids) > 0 {
			w.t.Errorf("in quarantine: %v, %v", ids, err)
		}
	}
}

// checkAudit looks for each answered session and each credential in the logs,
// and for credentials that were made twice.
func (w *world) checkAudit() {
	w.t.Helper()
	var text strings.Builder
	for i := range w.brokers {
		data, err := os.ReadFile(w.auditFile(i))
		if err != nil {
			w.t.Fatal(err)
		}
		text.Write(data)
	}
	announced, granted := recorded(text.String())
	for id := range w.books.answered {
		if !granted[id] {
			w.t.Errorf("session %s was answered, and no audit line says so", id)
		}
	}
	for id, n := range w.target.history() {
		if n != 1 {
			w.t.Errorf("credential %s was minted %d times", id, n)
		}
		if !announced[id] {
			w.t.Errorf("credential %s was minted, and no audit line said so before", id)
		}
	}
}
