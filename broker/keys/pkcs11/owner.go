package pkcs11

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"

	"github.com/brevet-dev/brevet/broker/keys/pkcs11/wire"
)

// An owner is the one goroutine that has to do with the helper process: it
// starts it, logs it in, sends it one request after the other, and kills it.
type owner struct {
	config     *Config
	write      bool                   // the session may make and destroy keys
	verify     func(*wire.Keys) error // what holds of the keys after every login; nil for anything
	operations atomic.Uint64

	jobs       chan job
	quit, done chan struct{}
	once       sync.Once

	process *process // the goroutine's; nil if there is none now
	refused error    // the goroutine's; why there is no further login
}

// A job is a request on its way to the goroutine.
type job struct {
	request *wire.Request
	answer  chan answer     // unbuffered, so that a secret has someone to wipe it
	gone    <-chan struct{} // closed when nobody waits any more
}

type answer struct {
	response *wire.Response
	err      error
}

func newOwner(c *Config, write bool, verify func(*wire.Keys) error) *owner {
	o := &owner{config: c, write: write, verify: verify, jobs: make(chan job), quit: make(chan struct{}), done: make(chan struct{})}
	go o.run()
	return o
}

// do has one request answered. When ctx ends first, the request may have been
// carried out.
func (o *owner) do(ctx context.Context, q *wire.Request) (*wire.Response, error) {
	j := job{q, make(chan answer), ctx.Done()}
	select {
	case <-o.quit:
		return nil, ErrClosed
	case <-ctx.Done():
		return nil, fmt.Errorf("waiting for the HSM: %w", context.Cause(ctx))
	case o.jobs <- j:
	}
	select {
	case a := <-j.answer:
		return a.response, a.err
	case <-ctx.Done():
		return nil, fmt.Errorf("waiting for the HSM: %w", context.Cause(ctx))
	}
}

// close ends the goroutine and its process, and waits for both.
func (o *owner) close() {
	o.once.Do(func() { close(o.quit) })
	<-o.done
}

func (o *owner) run() {
	// Linux kills the helper when the thread that started it ends
	// (PR_SET_PDEATHSIG), so this goroutine keeps its thread.
	runtime.LockOSThread()
	defer close(o.done)
	defer o.drop()
	for {
		select {
		case <-o.quit:
			return
		case j := <-o.jobs:
			response, err := o.answer(j.request)
			select {
			case j.answer <- answer{response, err}:
			case <-j.gone:
				if response != nil {
					response.Secret.Wipe()
				}
			}
		}
	}
}

// answer asks the helper, and once more a new one if that may help.
func (o *owner) answer(q *wire.Request) (*wire.Response, error) {
	for again := false; ; again = true {
		if err := o.connect(); err != nil {
			return nil, err
		}
		response, err := o.ask(o.process, q)
		if err == nil {
			return response, nil
		}
		o.drop()
		if again || !repeatable(q.Op, err) {
			return nil, err
		}
	}
}

// repeatable reports whether a new process may do better: it has a new session,
// and so it heals what the token forgot or the old process was killed for. One
// that hung is not asked twice, since users wait.
func repeatable(op wire.Op, err error) bool {
	if op == wire.Generate || errors.Is(err, ErrTimeout) {
		return false // a half-made pair of keys must not get a twin
	}
	_, refused := errors.AsType[*returnError](err)
	return refused || errors.Is(err, ErrEnded)
}

// connect sees to it that there is a process that is logged in.
func (o *owner) connect() error {
	if o.process != nil {
		return nil
	}
	if o.refused != nil {
		return o.refused
	}
	p, err := o.config.start()
	if err != nil {
		return err
	}
	if err := o.login(p); err != nil {
		p.stop()
		if errors.Is(err, ErrPIN) {
			o.refused = err
		}
		return err
	}
	o.process = p
	return nil
}

// login makes a new process ready for use.
func (o *owner) login(p *process) error {
	opened, err := o.ask(p, &wire.Request{Op: wire.Open, Module: o.config.Module, Token: o.config.Token, Write: o.write})
	if err != nil {
		return err
	}
	if err := o.config.mayLogin(opened.Tokens); err != nil {
		return err
	}
	keys, err := o.showPIN(p)
	if err != nil || o.verify == nil {
		return err
	}
	return o.verify(keys)
}

// showPIN logs in with a PIN that was not refused before.
func (o *owner) showPIN(p *process) (*wire.Keys, error) {
	if err := o.config.untried(); err != nil {
		return nil, err
	}
	pin, err := o.config.readPIN()
	if err != nil {
		return nil, err
	}
	defer pin.Wipe()
	response, err := o.ask(p, &wire.Request{Op: wire.Login, Secret: pin})
	switch {
	case wrongPIN(err):
		return nil, errors.Join(err, o.config.remember())
	case err != nil:
		return nil, err
	}
	return response.Keys, o.config.forget()
}

// mayLogin keeps from trying a PIN where a wrong one would lock the token.
func (c *Config) mayLogin(tokens []wire.Token) error {
	switch {
	case len(tokens) != 1:
		return fmt.Errorf("%w: the helper opened %d tokens", ErrToken, len(tokens))
	case tokens[0].PINLocked:
		return fmt.Errorf("%w: the security officer of the token %q has to set a new one", ErrLocked, c.Token)
	case tokens[0].FinalTry:
		return fmt.Errorf("%w after one more wrong one, so it is not tried: log in to the token %q by hand, which sets the count back: pkcs11-tool --module %s --token-label %q --login --list-objects",
			ErrLocked, c.Token, c.Module, c.Token)
	}
	return nil
}

// ask sends one request and counts it.
func (o *owner) ask(p *process, q *wire.Request) (*wire.Response, error) {
	o.operations.Add(1)
	response, err := p.ask(q, o.config.timeout(q.Op))
	if err != nil {
		return nil, err
	}
	if response.Error != nil {
		response.Secret.Wipe()
		return nil, o.config.explain(response.Error, response.Tokens)
	}
	if response.Keys == nil && (q.Op == wire.Login || q.Op == wire.Check || q.Op == wire.Generate) {
		return nil, fmt.Errorf("%w: it answered %s without keys", ErrEnded, q.Op)
	}
	return response, nil
}

// drop ends the process, if there is one.
func (o *owner) drop() {
	if o.process != nil {
		o.process.stop()
		o.process = nil
	}
}
