package broker

import "context"

// MaxQueue bounds the exchanges that wait; MaxWait is how long. The others bound
// those who listen.
const (
	MaxQueue             = maxQueue
	MaxWait              = maxWait
	MaxListeners         = maxListeners
	MaxWorkloadListeners = maxWorkloadListeners
	MaxSessionListeners  = maxSessionListeners
)

// NewID returns the id of a session ('s') or lease ('l').
func NewID(kind byte, shard int) string { return newID(kind, shard) }

// LetListen lets sessions listen, though nobody looks what happens to them.
func (b *Broker) LetListen() { b.watch.run(true) }

// An Admission is what decides when an exchange may begin.
type Admission struct{ *admission }

// NewAdmission returns one for so many exchanges at once.
func NewAdmission(seats int) Admission {
	a := newAdmission()
	a.seats = seats
	return Admission{a}
}

// Enter waits for the turn of a workload.
func (a Admission) Enter(ctx context.Context, workload string) error {
	_, err := a.enter(ctx, workload)
	return err
}

// Leave gives back a seat.
func (a Admission) Leave() { a.leave() }

// ComeBack takes a seat without waiting.
func (a Admission) ComeBack() { a.comeBack() }

// Load says how full it is.
func (a Admission) Load() Load {
	a.mu.Lock()
	defer a.mu.Unlock()
	return Load{a.working, a.waiting, a.refused}
}

// Lines returns how many workloads wait.
func (a Admission) Lines() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return max(len(a.lines), len(a.turns))
}
