package lambda

import (
	"slices"
	"sync"
	"syscall"
	"time"
)

// A Reason is why a sandbox is shut down or reset, as extensions are told.
type Reason string

// The documentation has them in capitals, too; Lambda sends small letters.
const (
	Spindown Reason = "spindown" // nobody has called for a while
	Timeout  Reason = "timeout"
	Failure  Reason = "failure"
)

// How long a shutdown may take, by who is registered: nothing at all for a function
// without extensions, 500 ms with one within the runtime, 2 s with others, of which
// the runtime has 300 ms, or 500 ms with one within it. The emulator gives the
// runtime 30 % of the 2 s.
//
// https://docs.aws.amazon.com/lambda/latest/dg/lambda-runtime-environment.html
const (
	shutdownTime         = 2 * time.Second
	runtimeTime          = 300 * time.Millisecond
	runtimeTimeExtension = 500 * time.Millisecond
)

// Shutdown ends the processes as Lambda does when nobody has called for a while. The
// next invocation would be in another sandbox.
func (s *Sandbox) Shutdown() {
	s.turn.Lock()
	defer s.turn.Unlock()
	s.over = true
	s.reset(Spindown)
}

// reset ends the processes: what /tmp has stays.
func (s *Sandbox) reset(why Reason) {
	if g := s.current(); g != nil {
		g.shutdown(why)
		s.gone()
	}
}

func (s *Sandbox) gone() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.now = nil
}

// shutdown ends the runtime, then the extensions.
func (g *generation) shutdown(why Reason) {
	g.update(func() { g.ending, g.closed = true, true })
	g.thaw()
	now := time.Now().Add(g.sandbox.function.Grace)
	within, beside := g.extended()
	if within || beside {
		limit := runtimeTime
		if within {
			limit = runtimeTimeExtension
		}
		g.endRuntime(now.Add(limit))
	}
	if beside {
		g.endExtensions(why, now.Add(shutdownTime))
	}
	g.kill()
}

// extended reports whether there are extensions within the runtime, and beside it.
func (g *generation) extended() (within, beside bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, p := range g.extensions {
		within, beside = within || p.internal, beside || !p.internal
	}
	return within, beside
}

func (g *generation) endRuntime(deadline time.Time) {
	g.mu.Lock()
	p := g.runtime.process
	g.mu.Unlock()
	if p != nil {
		p.signal(syscall.SIGTERM)
		p.endBy(deadline)
	}
}

// endExtensions tells those that want to know, kills the others, and waits.
func (g *generation) endExtensions(why Reason, deadline time.Time) {
	var ending sync.WaitGroup
	g.update(func() {
		for _, p := range g.extensions {
			switch {
			case p.process == nil:
			case slices.Contains(p.events, eventShutdown):
				p.next = &event{Type: eventShutdown, Deadline: deadline.UnixMilli(), ShutdownReason: why}
				ending.Go(func() { p.process.endBy(deadline) })
			default:
				ending.Go(func() { p.process.endBy(time.Time{}) })
			}
		}
	})
	ending.Wait()
}

// kill ends what is left.
func (g *generation) kill() {
	g.update(func() { g.ending = true })
	g.signal(syscall.SIGKILL)
	for _, p := range g.processes() {
		<-p.done
	}
}
