package runner

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http"
	"net/url"
	"slices"
	"sync"
	"time"

	"github.com/brevet-dev/brevet/broker/api"
	"github.com/brevet-dev/brevet/plugins/exchange"
)

const (
	// wakeTime is how often a wait for a renewal looks at the clock: a timer
	// stands still while a machine sleeps, and leases do not.
	wakeTime = 30 * time.Second

	// leastLeft is the time before the end of a lease in which it is given up:
	// less would not do for a broker that mints.
	leastLeft = time.Second
)

// Renewals say what is done with the leases that [Session.Keep] looks after. Its
// functions are called one at a time.
type Renewals struct {
	// Again reports whether a credential whose lease cannot be renewed any
	// more is to be exchanged for again. nil: none.
	Again func(credential string) bool

	// Changed gets a lease with its new end and all its values, of which any
	// may be new. The old ones work until their own end. If it returns an error
	// nobody has the new ones: then the lease is not renewed any more, and
	// Failed hears of it.
	Changed func(api.Lease) error

	// Wake makes Keep renew at once, when something can be received from it.
	// It is for a session of one lease. nil: never.
	Wake <-chan struct{}

	// Failed hears why a lease was not renewed. If it is lost it is not tried
	// any more, and l.ExpiresAt is when the values that are in use end; else it
	// is.
	Failed func(l api.Lease, err error, lost bool)
}

// Keep renews the session's leases, each at two thirds of its time less up to a
// tenth at random, until ctx ends or there is none left to renew. One that has
// reached its max_ttl is exchanged for again if the job can get another token,
// and r wants it. What a policy grants no more, or an operator ended, is lost.
//
// Other trouble is told once, and tried again for as long as the lease lives.
func (s *Session) Keep(ctx context.Context, r Renewals) {
	k := &keeper{first: s, r: r}
	for _, l := range s.Answer.Leases {
		k.running.Go(func() { k.lease(ctx, s, l) })
	}
	k.running.Wait()
}

// A keeper is one call of Keep.
type keeper struct {
	first   *Session // which ends the others, too
	r       Renewals
	running sync.WaitGroup

	mu sync.Mutex // held while a function of r runs
}

// lease looks after l, at first a lease of s.
func (k *keeper) lease(ctx context.Context, s *Session, l api.Lease) {
	for renewed := false; waitUntil(ctx, renewalTime(time.Now(), l.ExpiresAt), k.r.Wake); renewed = true {
		if !l.Renewable && !k.again(s, l) {
			if renewed {
				k.failed(l, ErrNoMore, true)
			}
			return
		}
		owner, next, err := k.prolong(ctx, s, l)
		if ctx.Err() != nil {
			return
		}
		if err == nil {
			owner.extended(next.ExpiresAt)
			err = k.changed(*next)
		}
		if err != nil {
			k.failed(l, err, true)
			return
		}
		s, l = owner, *next
	}
}

// again reports whether there may be another exchange for l. Another data key
// would not open what the first has sealed.
func (k *keeper) again(s *Session, l api.Lease) bool {
	return s.again != nil && l.Kind != api.KindDataKey && k.r.Again != nil && k.r.Again(l.Credential)
}

// prolong renews l, a lease of s, or exchanges for it again, with tries until l
// ends. owner is the session that the lease returned is of.
func (k *keeper) prolong(ctx context.Context, s *Session, l api.Lease) (owner *Session, next *api.Lease, err error) {
	for told := false; ; {
		left := max(leastLeft, time.Until(l.ExpiresAt))
		owner, next, err := k.try(ctx, s, l, max(leastLeft, left/3))
		if err == nil || isFinal(err) || time.Until(l.ExpiresAt) <= leastLeft {
			return owner, next, err
		}
		if !told && ctx.Err() == nil {
			k.failed(l, err, false)
			told = true
		}
		if !exchange.Pause(ctx, spread(min(max(leastLeft, left/10), wakeTime))) {
			return nil, nil, err
		}
	}
}

// try is one try of prolong.
func (k *keeper) try(ctx context.Context, s *Session, l api.Lease, within time.Duration) (*Session, *api.Lease, error) {
	short, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	if l.Renewable {
		next, err := s.renew(short, l)
		if err == nil || !isRefused(err) {
			return s, next, err
		}
		if err := s.whyRefused(short, l, err); !errors.Is(err, ErrNoMore) || !k.again(s, l) {
			return nil, nil, err
		}
	}
	return k.exchange(short, s, l)
}

// exchange makes another exchange for the credential of l.
func (k *keeper) exchange(ctx context.Context, s *Session, l api.Lease) (*Session, *api.Lease, error) {
	other, err := s.again(ctx, l.Credential)
	if isRefused(err) {
		err = fmt.Errorf("%w: %w", ErrNoMore, err)
	}
	if other == nil {
		return nil, nil, err
	}
	if err := k.first.adopt(ctx, other); err != nil {
		return nil, nil, err
	}
	s.replace(l.Credential)
	k.running.Go(func() {
		other.KeepAlive(ctx, func(err error) { k.failed(other.Answer.Leases[0], err, false) })
	})
	return other, &other.Answer.Leases[0], nil
}

func (k *keeper) changed(l api.Lease) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.r.Changed(l)
}

func (k *keeper) failed(l api.Lease, err error, lost bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if errors.Is(err, errEnded) {
		l.ExpiresAt = earlier(l.ExpiresAt, time.Now())
	}
	k.r.Failed(l, fmt.Errorf("renewing %s: %w", Printable(l.Credential), err), lost)
}

func earlier(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}

// errEnded ends the tries to renew a lease.
var errEnded = errors.New("the lease has ended before its time")

// ErrNoMore ends them where policies let the lease live no longer.
var ErrNoMore = errors.New("the lease has reached its max_ttl")

func isFinal(err error) bool { return errors.Is(err, errEnded) || errors.Is(err, ErrNoMore) }

// isRefused reports whether err is the broker's last word on a lease. A proof
// that is refused, say, is not: the clock may be set right.
func isRefused(err error) bool {
	oauth, ok := errors.AsType[*api.Error](err)
	if !ok || !IsKind(err, Denied) {
		return false
	}
	return slices.Contains([]string{api.CodeInvalidTarget, api.CodeInvalidRequest, api.CodeInvalidToken, api.CodeNotFound}, oauth.Code)
}

// renewalTime is two thirds between now and end, less up to a tenth of the time
// between them, so that the jobs of one pipeline do not renew together. An end that
// is past, as where a clock is wrong, makes no flood of renewals.
func renewalTime(now, end time.Time) time.Time {
	ttl := max(leastLeft, end.Sub(now))
	return now.Add(ttl*2/3 - rand.N(ttl/10+1))
}

// waitUntil waits for a time of the wall clock, or for wake, and reports whether
// it came before the end of ctx.
func waitUntil(ctx context.Context, due time.Time, wake <-chan struct{}) bool {
	due = due.Round(0) // without the monotonic clock's
	for {
		left := time.Until(due)
		if left <= 0 {
			return ctx.Err() == nil
		}
		timer := time.NewTimer(min(left, wakeTime))
		select {
		case <-timer.C:
		case <-wake:
			timer.Stop()
			return ctx.Err() == nil
		case <-ctx.Done():
			timer.Stop()
			return false
		}
	}
}

// renew renews l once, with tries until ctx ends. Of a credential that is
// extended and not made anew the broker does not tell all values again: the
// lease returned has those of l.
func (s *Session) renew(ctx context.Context, l api.Lease) (*api.Lease, error) {
	seal, err := api.NewSealKey()
	if err != nil {
		return nil, failf(Unavailable, "", "%w", err)
	}
	form := url.Values{"seal_key": {seal.Public()}}
	reply, err := s.client.Do(ctx, exchange.Call{Path: leasePath(l) + "/renew", Session: s.Answer.AccessToken, Form: form})
	if err != nil {
		return nil, err
	}
	next, err := api.DecodeSealedLease(reply.Body, seal, reply.Seal)
	if err == nil && (next.LeaseID != l.LeaseID || next.Credential != l.Credential) {
		err = errors.New("not the lease asked for")
	}
	if err == nil {
		next.Values, next.Env = overlaid(l.Values, next.Values), overlaid(l.Env, next.Env)
		next.Sensitive = slices.Compact(slices.Sorted(slices.Values(slices.Concat(l.Sensitive, next.Sensitive))))
		err = checkLease(*next)
	}
	if err != nil {
		return nil, unlike(err)
	}
	return next, nil
}

func leasePath(l api.Lease) string { return api.PathLeases + url.PathEscape(l.LeaseID) }

func overlaid[V any](old, new map[string]V) map[string]V {
	out := maps.Clone(new)
	if out == nil {
		out = map[string]V{}
	}
	for name, v := range old {
		if _, ok := out[name]; !ok {
			out[name] = v
		}
	}
	return out
}

// whyRefused looks into a refused renewal. The error is [ErrNoMore] where l
// has come to its max_ttl, or to its end while the machine slept: then another
// exchange asks the policies as the first did. What was revoked stays so: to get
// it again would be against the will of who revoked it.
func (s *Session) whyRefused(ctx context.Context, l api.Lease, refused error) error {
	why := errEnded
	state, err := s.state(ctx, l)
	switch oauth, _ := errors.AsType[*api.Error](refused); {
	case oauth.Code == api.CodeInvalidTarget: // no policy grants it any more
	case err != nil && time.Now().After(l.ExpiresAt), state == "active", state == "expired":
		why = ErrNoMore
	case err != nil && !IsKind(err, Denied):
		return err // to be tried again
	}
	return failf(Denied, "", "%w: %w", why, refused)
}

// state asks the broker for the state of a lease.
func (s *Session) state(ctx context.Context, l api.Lease) (string, error) {
	reply, err := s.client.Do(ctx, exchange.Call{Method: http.MethodGet, Path: leasePath(l), Session: s.Answer.AccessToken})
	if err != nil {
		return "", err
	}
	var status api.LeaseStatus
	if err := json.Unmarshal(reply.Body, &status); err != nil {
		return "", failf(Protocol, "", "the broker's answer is not the state of a lease")
	}
	return status.State, nil
}
