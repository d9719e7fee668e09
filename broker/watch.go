package broker

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"time"

	"github.com/brevet-dev/brevet/broker/api"
)

const (
	// watchEvery is how late listeners may hear of what happened.
	watchEvery = time.Second

	// watchShare of its time, at most, a broker looks after listeners: it looks
	// less often when there are so many, or Redis is so slow, that it takes long;
	// but as often as watchAtLeast, so that who hears nothing knows something.
	watchShare   = 10
	watchAtLeast = 5 * time.Second

	// watchTimeout bounds one look. A Redis that needs longer is as good as lost.
	watchTimeout = 3 * time.Second

	// maxListeners of a broker, each with a connection and some 50 KiB; of one
	// workload, so that it leaves room for others; and of one session, which
	// needs one, and another while it connects again.
	maxListeners         = 4096
	maxWorkloadListeners = maxListeners / 8
	maxSessionListeners  = 4
)

// Keys are those that a broker uses for what is new.
type Keys struct {
	Signing string // kid of the epoch key
	KEK     string // id of the newest KEK
}

// ID names k to somebody who may have heard of it.
func (k Keys) ID() string {
	sum := sha256.Sum256([]byte(k.Signing + "\x00" + k.KEK))
	return base64.RawURLEncoding.EncodeToString(sum[:12])
}

// A Watched is a session that is listened for, with its leases.
type Watched struct {
	SessionID string
	LeaseIDs  []string
}

// A SessionState is what changes of a session.
type SessionState struct {
	Ended  bool // or not known any more
	Leases []LeaseState
}

// A LeaseState is what changes of a lease.
type LeaseState struct {
	State State // Unknown: its record is gone, or is garbage
	Why   string
}

// A Notice is one thing that a listener hears.
type Notice struct {
	Revoked *api.Revocation
	Rotated *Keys
}

// A watch has those who listen to what happens to their sessions. The store is
// asked, and tells nothing by itself: so it does not matter which broker, or
// which operator's command, ended what, and no message can be lost.
type watch struct {
	mu        sync.Mutex
	running   bool
	listeners map[*Listener]string // the workload of each
	keys      Keys
}

// A Listener hears what happens to one session.
type Listener struct {
	watch   *watch
	session *Session
	wake    chan struct{} // has one if there is something to hear

	mu     sync.Mutex
	told   []bool // of each lease
	queue  []Notice
	ending error // why it hears nothing more; nil: it does
}

// errDeaf ends listeners that would hear nothing.
var errDeaf = errors.New("nobody looks for what they would hear")

// Watch looks after those who listen, until ctx ends or [Broker.EndListening].
// Without it nobody may listen.
func (b *Broker) Watch(ctx context.Context) {
	b.watch.run(true)
	defer b.EndListening()
	for {
		start := time.Now()
		if err := b.look(ctx); err != nil {
			b.watch.end(fmt.Errorf("%w: looking for what happens to sessions: %w", ErrUnavailable, err))
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(min(max(watchEvery, (watchShare-1)*time.Since(start)), watchAtLeast)):
		}
	}
}

// EndListening ends all listeners, who are not to keep a broker from stopping,
// and lets nobody listen any more.
func (b *Broker) EndListening() {
	b.watch.run(false)
	b.watch.end(fmt.Errorf("%w: the broker stops: %w", ErrUnavailable, errDeaf))
}

// Listeners returns how many listen.
func (b *Broker) Listeners() int {
	b.watch.mu.Lock()
	defer b.watch.mu.Unlock()
	return len(b.watch.listeners)
}

// Listen lets an authenticated session hear what happens to it. What happened
// already it hears first, so that nothing is missed between two connections;
// knows is what it last heard of keys, or "". Its caller closes it. The error is
// [ErrListeners] if too many listen.
func (b *Broker) Listen(s *Session, knows string) (*Listener, error) {
	w := &b.watch
	l := &Listener{watch: w, session: s, wake: make(chan struct{}, 1), told: make([]bool, len(s.Leases))}
	if err := w.add(l, s.Who.line()); err != nil {
		return nil, err
	}
	l.hear(stateOf(s))
	if keys := b.keys(); knows != "" && knows != keys.ID() {
		l.tell(Notice{Rotated: &keys})
	}
	return l, nil
}

func (b *Broker) keys() Keys {
	if b.Keys == nil {
		return Keys{}
	}
	return b.Keys()
}

// KeysID names the keys in use, for who will listen again.
func (b *Broker) KeysID() string { return b.keys().ID() }

// stateOf returns what was read of s when it was authenticated.
func stateOf(s *Session) SessionState {
	out := SessionState{Ended: s.Ended}
	for _, l := range s.Leases {
		out.Leases = append(out.Leases, LeaseState{l.State, l.Why})
	}
	return out
}

// look asks the store about all that is listened for, and tells.
func (b *Broker) look(ctx context.Context) error {
	listeners, rotated := b.watch.all(b.keys())
	for _, l := range listeners {
		if rotated != nil {
			l.tell(Notice{Rotated: rotated})
		}
	}
	if len(listeners) == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, watchTimeout)
	defer cancel()
	watched := make([]Watched, len(listeners))
	for i, l := range listeners {
		watched[i] = l.session.watched()
	}
	states, err := b.Leases.SessionStates(ctx, watched)
	if err != nil {
		return err
	}
	for i, l := range listeners {
		l.hear(states[i])
	}
	return nil
}

func (s *Session) watched() Watched {
	out := Watched{SessionID: s.ID}
	for _, l := range s.Leases {
		out.LeaseIDs = append(out.LeaseIDs, l.ID)
	}
	return out
}

func (w *watch) run(running bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.running = running
}

// add lets l listen, if there is room.
func (w *watch) add(l *Listener, workload string) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.running {
		return fmt.Errorf("%w: %w", ErrUnavailable, errDeaf)
	}
	ofWorkload, ofSession := 0, 0
	for other, whose := range w.listeners {
		if whose == workload {
			ofWorkload++
		}
		if other.session.ID == l.session.ID {
			ofSession++
		}
	}
	full := ofWorkload >= maxWorkloadListeners || ofSession >= maxSessionListeners
	if full || len(w.listeners) >= maxListeners && !w.pushOutLocked(ofWorkload) {
		return fmt.Errorf("%w: %d, %d of the workload, %d of the session", ErrListeners, len(w.listeners), ofWorkload, ofSession)
	}
	if w.listeners == nil {
		w.listeners = make(map[*Listener]string)
	}
	w.listeners[l] = workload
	return nil
}

// pushOutLocked makes room for one of a workload, of which so many listen, at the
// cost of the workload of which most do, unless its own would be as many: who has
// many workloads does not keep others from listening.
func (w *watch) pushOutLocked(own int) bool {
	count, most, last := make(map[string]int), 0, (*Listener)(nil)
	for l, whose := range w.listeners {
		if count[whose]++; count[whose] > most {
			most, last = count[whose], l
		}
	}
	if most <= own+1 {
		return false
	}
	delete(w.listeners, last)
	last.end(fmt.Errorf("%w: others listen in its place", ErrListeners))
	return true
}

// all returns those who listen, and keys if they are others than at the last
// look.
func (w *watch) all(keys Keys) (listeners []*Listener, rotated *Keys) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.keys != keys && w.keys != (Keys{}) {
		rotated = &keys
	}
	w.keys = keys
	for l := range w.listeners {
		listeners = append(listeners, l)
	}
	return listeners, rotated
}

// end ends all listeners.
func (w *watch) end(why error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for l := range w.listeners {
		l.end(why)
	}
	clear(w.listeners)
}

// Close ends the listening.
func (l *Listener) Close() {
	l.watch.mu.Lock()
	defer l.watch.mu.Unlock()
	delete(l.watch.listeners, l)
}

// Next waits for something to hear. The error is [io.EOF] when the session is
// over, ctx's when that ends, and else why nothing more can be heard.
func (l *Listener) Next(ctx context.Context) ([]Notice, error) {
	for {
		if notices, err := l.take(); err != nil || len(notices) > 0 {
			return notices, err
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-l.wake:
		}
	}
}

// take returns what there is to hear; only after that, that there is an end.
func (l *Listener) take() ([]Notice, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	notices := l.queue
	l.queue = nil
	if len(notices) > 0 {
		return notices, nil
	}
	return nil, l.ending
}

// tell queues notices. Of rotations only the last one counts.
func (l *Listener) tell(notices ...Notice) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.tellLocked(notices...)
}

func (l *Listener) tellLocked(notices ...Notice) {
	if l.ending != nil {
		return
	}
	for _, n := range notices {
		if n.Rotated != nil {
			l.queue = slices.DeleteFunc(l.queue, func(old Notice) bool { return old.Rotated != nil })
		}
		l.queue = append(l.queue, n)
	}
	l.wakeUp()
}

func (l *Listener) wakeUp() {
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

func (l *Listener) end(why error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ending == nil {
		l.ending = why
		l.wakeUp()
	}
}

// hear tells what is new in the state of the session: each lease that was ended
// before its time, once.
func (l *Listener) hear(state SessionState) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for i, now := range state.Leases {
		if l.told[i] || now.State == Pending || now.State == Active {
			continue
		}
		l.told[i] = true
		if now.Why != WhyExpired {
			lease := l.session.Leases[i]
			l.tellLocked(Notice{Revoked: &api.Revocation{LeaseID: lease.ID, Credential: lease.Credential, Why: now.Why}})
		}
	}
	if state.Ended && l.ending == nil {
		l.tellLocked(Notice{Revoked: &api.Revocation{Session: true}})
		l.ending = io.EOF
	}
}
