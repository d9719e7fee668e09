package broker

import (
	"context"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"sync"
	"time"
)

const (
	// seatsPerCPU exchanges are worked on for each processor: enough to share the
	// round trips to Redis and the syncs of the audit log, of which one serves
	// all that wait for it; more only makes each slower.
	seatsPerCPU = 32

	// maxQueue bounds the exchanges that wait, each with its request of a few KiB.
	maxQueue = 4096

	// maxWait is how long one waits: within the patience of a client, which then
	// still has time to come again. Two processors serve 2 000 in it several
	// times over.
	maxWait = 5 * time.Second

	// maxBusyRetry is the longest time, in seconds, after which one that found the
	// broker busy is to come again. It is drawn for each, so that a storm does
	// not come back as one.
	maxBusyRetry = 4
)

// An admission bounds how many exchanges are worked on at the same time: what
// comes in one moment would else wait in Redis' queue until all of it is late.
// The others wait here, each workload in a line of its own, and the lines take
// turns. So one that starts thousands of functions at once does not hold up
// another that starts one.
//
// Only exchanges wait, and only those whose token was verified and that a policy
// grants: nobody can take another's place in line, or fill lines with tokens
// that are good for nothing. What is renewed or revoked, and who finishes what
// was begun, never waits.
type admission struct {
	mu      sync.Mutex
	seats   int
	working int
	waiting int
	refused uint64
	lines   map[string]*line // by workload
	turns   []*line          // the same; the next one to be served in front
}

// A line is those of one workload that wait, the longest in front.
type line struct {
	workload string
	places   []*place
}

// A place is one that waits.
type place struct {
	line *line
	turn chan bool // true: begin; false: pushed out
}

func newAdmission() *admission {
	return &admission{seats: seatsPerCPU * max(2, runtime.GOMAXPROCS(0)), lines: make(map[string]*line)}
}

// enter waits until an exchange of a workload may begin, and reports whether it
// had to. Without an error the caller calls leave in the end. The error is
// [ErrBusy]: too many wait, or it took too long, or ctx has ended.
func (a *admission) enter(ctx context.Context, workload string) (waited bool, err error) {
	p, err := a.join(workload)
	if p == nil || err != nil {
		return false, err
	}
	ctx, cancel := context.WithTimeout(ctx, maxWait)
	defer cancel()
	select {
	case begin := <-p.turn:
		if !begin {
			err = fmt.Errorf("%w: others of its workload wait in its place", ErrBusy)
		}
	case <-ctx.Done():
		err = a.giveUp(p, fmt.Errorf("%w: waiting for its turn: %w", ErrBusy, ctx.Err()))
	}
	return true, err
}

// join takes a seat, and returns nil, or a place in line.
func (a *admission) join(workload string) (*place, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.working < a.seats && a.waiting == 0 {
		a.working++
		return nil, nil
	}
	if a.waiting >= maxQueue && !a.pushOutLocked(workload) {
		a.refused++
		return nil, fmt.Errorf("%w: %d exchanges wait", ErrBusy, a.waiting)
	}
	l := a.lines[workload]
	if l == nil {
		l = &line{workload: workload}
		a.lines[workload], a.turns = l, append(a.turns, l)
	}
	p := &place{l, make(chan bool, 1)}
	l.places = append(l.places, p)
	a.waiting++
	return p, nil
}

// pushOutLocked makes room for one of a workload at the cost of the last one in
// the longest line, unless its own line would be as long.
func (a *admission) pushOutLocked(workload string) bool {
	longest := slices.MaxFunc(a.turns, func(x, y *line) int { return len(x.places) - len(y.places) })
	own := 0
	if l := a.lines[workload]; l != nil {
		own = len(l.places)
	}
	if len(longest.places) <= own+1 {
		return false
	}
	last := longest.places[len(longest.places)-1]
	a.removeLocked(last)
	a.refused++
	last.turn <- false
	return true
}

// removeLocked takes p out of its line, and reports whether it stood there.
func (a *admission) removeLocked(p *place) bool {
	l := p.line
	at := slices.Index(l.places, p)
	if at < 0 {
		return false
	}
	l.places = slices.Delete(l.places, at, at+1)
	a.waiting--
	if len(l.places) == 0 {
		a.turns = slices.DeleteFunc(a.turns, func(other *line) bool { return other == l })
		delete(a.lines, l.workload)
	}
	return true
}

// giveUp takes p out of its line and returns why. If its turn came at the same
// time, somebody else has it.
func (a *admission) giveUp(p *place, why error) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	switch {
	case a.removeLocked(p):
		a.refused++
	case <-p.turn:
		a.refused++
		a.working--
		a.serveLocked()
	}
	return why
}

// serveLocked gives free seats to those who wait: one of each line in turn.
func (a *admission) serveLocked() {
	for a.working < a.seats && a.waiting > 0 {
		l := a.turns[0]
		a.turns = append(a.turns[1:], l)
		p := l.places[0]
		a.removeLocked(p)
		a.working++
		p.turn <- true
	}
}

// leave gives the seat to the next. It is also called while an exchange waits
// for a target, which may take long and costs the broker nothing.
func (a *admission) leave() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.working--
	a.serveLocked()
}

// comeBack takes a seat for an exchange that has begun, if there is one or not:
// until it has finished, fewer begin.
func (a *admission) comeBack() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.working++
}

// busyRetry returns when a client that found the broker busy is to come again,
// in whole seconds.
func busyRetry() time.Duration { return time.Duration(1+rand.N(maxBusyRetry)) * time.Second }

// A Load says how busy the broker is with exchanges.
type Load struct {
	Working int    // are worked on
	Waiting int    // for their turn
	Refused uint64 // that found it too busy, so far
}

// Load returns how busy the broker is.
func (b *Broker) Load() Load {
	b.admission.mu.Lock()
	defer b.admission.mu.Unlock()
	return Load{b.admission.working, b.admission.waiting, b.admission.refused}
}
