package runner

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/brevet-dev/brevet/broker/api"
	"github.com/brevet-dev/brevet/plugins/exchange"
	"github.com/brevet-dev/brevet/plugins/runner/mask"
)

const (
	// maxKinds bounds what is told apart of one lease: its values, the outputs and
	// the encodings. What comes then is counted together.
	maxKinds = 30

	// reportTimeout bounds a report, with its tries: what follows is the revocation.
	reportTimeout = 2 * time.Second

	// maxPlaces bounds the places that a message names.
	maxPlaces = 5
)

// Leaks counts where values of leases were found in the output of a command, and
// never holds what was found. Its methods may be called at the same time.
type Leaks struct {
	mu     sync.Mutex
	masker *mask.Masker // the latest, and
	values []Sensitive  // those that it was made of
	kinds  []*leakKind
	urgent chan struct{} // gets a value when something urgent was found

	sending sync.Mutex // held while a report is on its way, so that nothing is told twice
}

// A leakKind is what was found alike.
type leakKind struct {
	credential string
	urgent     bool // its policy wants to hear of it at once
	api.Leak
	told int64    // of Count, to the broker
	last mask.Hit // an old value and a new one may be found at the same place
}

// NewLeaks returns Leaks without any.
func NewLeaks() *Leaks {
	return &Leaks{urgent: make(chan struct{}, 1)}
}

// Know says of which values m was made, in this order. The Masker before it is not
// asked for any more.
func (l *Leaks) Know(m *mask.Masker, values []Sensitive) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.masker, l.values = m, values
}

// Hits returns what counts the hits of m in an output called "stdout" or "stderr".
// Those of a Masker that is not known are not counted.
func (l *Leaks) Hits(m *mask.Masker, output string) func(mask.Hit) {
	l.mu.Lock()
	defer l.mu.Unlock()
	var values []Sensitive
	if m == l.masker {
		values = l.values
	}
	return func(h mask.Hit) {
		if h.Secret < len(values) {
			l.add(values[h.Secret], output, h)
		}
	}
}

func (l *Leaks) add(v Sensitive, output string, h mask.Hit) {
	l.mu.Lock()
	defer l.mu.Unlock()
	k := l.kind(v, output, h.Encoding)
	if k.Count > 0 && k.last.Offset == h.Offset && k.last.Line == h.Line {
		return
	}
	k.last = h
	k.Count = min(k.Count+1, api.MaxLeakCount)
	line := min(int64(h.Line), api.MaxLeakCount)
	if k.Output != "" && len(k.Lines) < api.MaxLeakLines && !slices.Contains(k.Lines, line) {
		k.Lines = append(k.Lines, line)
	}
	if k.urgent && k.told == 0 {
		select {
		case l.urgent <- struct{}{}:
		default: // somebody is to look already
		}
	}
}

// kind returns the kind that a hit is of, a new one if there is room.
func (l *Leaks) kind(v Sensitive, output, encoding string) *leakKind {
	want := api.Leak{LeaseID: v.Of.LeaseID, Value: v.ValueName, Output: output, Encoding: encoding}
	for {
		same := 0
		for _, k := range l.kinds {
			switch {
			case k.LeaseID != want.LeaseID:
			case k.Value == want.Value && k.Output == want.Output && k.Encoding == want.Encoding:
				return k
			default:
				same++
			}
		}
		if same < maxKinds || want.Output == "" {
			break
		}
		want.Value, want.Output, want.Encoding = "", "", api.EncodingOther
	}
	k := &leakKind{credential: Printable(v.Of.Credential), urgent: v.Of.OnLeak == api.OnLeakRevoke, Leak: want}
	l.kinds = append(l.kinds, k)
	return k
}

// Describe says for people what was found, a line for each credential, or nothing.
func (l *Leaks) Describe() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	var names, out []string
	for _, k := range l.kinds {
		names = append(names, k.credential)
	}
	slices.Sort(names)
	for _, name := range slices.Compact(names) {
		out = append(out, l.describe(name))
	}
	return out
}

func (l *Leaks) describe(credential string) string {
	var places []string
	total, shown := int64(0), int64(0)
	for _, k := range l.kinds {
		if k.credential != credential {
			continue
		}
		total += k.Count
		for _, line := range k.Lines {
			if len(places) < maxPlaces {
				places, shown = append(places, fmt.Sprintf("%s line %d (%s)", k.Output, line, k.Encoding)), shown+1
			}
		}
	}
	if shown < total {
		places = append(places, "…")
	}
	times := fmt.Sprintf("%d times", total)
	if total == 1 {
		times = "once"
	}
	return fmt.Sprintf("a value of the lease of %s was masked %s: %s", credential, times, strings.Join(places, ", "))
}

// unreported returns up to [api.MaxLeaks] leaks of those leases that have
// something to tell of yet.
func (l *Leaks) unreported(of func(leaseID string) bool) []api.Leak {
	l.mu.Lock()
	defer l.mu.Unlock()
	var out []api.Leak
	for _, k := range l.kinds {
		if k.Count > k.told && of(k.LeaseID) && len(out) < api.MaxLeaks {
			leak := k.Leak
			leak.Count, leak.Lines = k.Count-k.told, slices.Clone(k.Lines)
			out = append(out, leak)
		}
	}
	return out
}

// reported notes that the broker knows of leaks.
func (l *Leaks) reported(leaks []api.Leak) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, leak := range leaks {
		for _, k := range l.kinds {
			if k.LeaseID == leak.LeaseID && k.Value == leak.Value && k.Output == leak.Output && k.Encoding == leak.Encoding {
				k.told += leak.Count
			}
		}
	}
}

// Watch reports leaks of leases whose policy wants to hear of them at once, until
// ctx ends; sessions returns those that there are. tell hears that a session was
// ended because of one, or that a report failed; then the next leak, or the end, is
// the next try.
func (l *Leaks) Watch(ctx context.Context, sessions func() []*Session, tell func(error)) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-l.urgent:
		}
		switch revoked, err := l.Report(ctx, sessions()...); {
		case ctx.Err() != nil:
			return
		case err != nil:
			tell(err)
		case revoked:
			tell(failf(Denied, "", "%s; its policy (on_leak: revoke) ends the session: all its leases are revoked, and the command goes on without them",
				strings.Join(l.Describe(), "; ")))
		}
	}
}

// Report tells the broker of all that it does not know of yet, each session of its
// own leases, within reportTimeout, also when ctx is over already. revoked: it ended
// a session because of that. Its errors are Failures, and none of the job's.
func (l *Leaks) Report(ctx context.Context, sessions ...*Session) (revoked bool, err error) {
	l.sending.Lock()
	defer l.sending.Unlock()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), reportTimeout)
	defer cancel()
	for _, s := range sessions {
		for _, one := range append([]*Session{s}, s.added()...) {
			ended, err := one.reportOwn(ctx, l)
			revoked = revoked || ended
			if err != nil {
				return revoked, failf(Unavailable, "", "telling the broker that values were in the output: %w", err)
			}
		}
	}
	return revoked, nil
}

// reportOwn reports the leaks of s's own leases. A session that is over, or has
// reported too much, has nothing more to say.
func (s *Session) reportOwn(ctx context.Context, l *Leaks) (revoked bool, err error) {
	for {
		leaks := l.unreported(s.owns)
		if len(leaks) == 0 {
			return revoked, nil
		}
		ended, err := s.client.reportLeaks(ctx, s.Answer.AccessToken, leaks)
		if err != nil && !isOver(err) {
			return revoked, err
		}
		l.reported(leaks)
		if ended {
			s.leaked.Store(true)
		}
		revoked = revoked || ended
	}
}

// Leaked reports whether the broker has ended the session, or one that renewed it,
// because of a leak that was reported.
func (s *Session) Leaked() bool {
	return s.leaked.Load() || slices.ContainsFunc(s.added(), (*Session).Leaked)
}

// added returns the other sessions of s.
func (s *Session) added() []*Session {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.others)
}

// owns reports whether s has the lease of an id.
func (s *Session) owns(leaseID string) bool {
	return slices.ContainsFunc(s.Answer.Leases, func(l api.Lease) bool { return l.LeaseID == leaseID })
}

// reportLeaks sends one report.
func (c *Client) reportLeaks(ctx context.Context, token api.Secret, leaks []api.Leak) (revoked bool, err error) {
	body, err := json.Marshal(api.LeakReport{Leaks: leaks})
	if err != nil {
		return false, err
	}
	reply, err := c.Do(ctx, exchange.Call{Path: api.PathLeaks, Session: token, JSON: body})
	if err != nil {
		return false, err
	}
	var out api.LeakAnswer
	if err := json.Unmarshal(reply.Body, &out); err != nil {
		return false, failf(Protocol, "", "the broker's answer is not that to a report")
	}
	return out.Revoked, nil
}
