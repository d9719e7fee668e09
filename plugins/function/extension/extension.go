// Package extension is an external extension of AWS Lambda that gets credentials
// for a function in any language: beside the function, while both start.
//
// [Options.Run] makes its folder with the token that requests must bring, listens
// on loopback, registers with Lambda, and exchanges the function's identity, which
// it has from STS, by package function. Then it waits for Lambda's events. Lambda
// freezes the sandbox when the function and all extensions have asked for the next
// one, so before the extension does it has done what is due. At the end it wipes
// and revokes.
//
// serve.go is what the function asks; folder.go what it may read instead;
// lambda.go the Extensions API. Package ststoken asks STS.
package extension

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"net"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/brevet-dev/brevet/broker/api"
	"github.com/brevet-dev/brevet/plugins/exchange"
	"github.com/brevet-dev/brevet/plugins/function"
	"github.com/brevet-dev/brevet/plugins/function/ststoken"
)

// DefaultPort is where the function finds the extension. AWS's own extensions are at
// 2772 (AppConfig) and 2773 (Parameters and Secrets), Lambda itself at 9001.
const DefaultPort = 2774

const (
	// initTime is for the first exchange. An answer on its way is waited for five
	// seconds more, and Lambda leaves ten for everything.
	initTime = 4500 * time.Millisecond

	// settleTime bounds what is done before the extension asks for the next event.
	// The function's answer does not wait for it, but the next invocation may, and
	// Lambda bills it.
	settleTime = time.Second

	// endTime is what Lambda leaves extensions at the end, less a reserve: it kills
	// them after two seconds.
	endTime    = 1800 * time.Millisecond
	endReserve = 200 * time.Millisecond

	// syncEvery is how often files are compared with what is in force while the
	// function runs.
	syncEvery = time.Second
)

// Options say what an extension is for. All must be given, but where zero has a
// meaning.
type Options struct {
	Name        string // of the extension's file, which Lambda knows it by
	Runtime     string // AWS_LAMBDA_RUNTIME_API: host:port of Lambda
	Broker      string // its url, byte for byte as in its configuration
	Credentials []string
	Port        int    // where to listen on 127.0.0.1
	Dir         string // the folder for the token and files
	Files       bool   // write the credentials to files, too

	// Function has TTL, Audience, StartWithout, MaxStale and CAFile, as in a
	// function in Go; zero as there.
	Function function.Options

	// AWS makes of a lease what AWS SDKs read from a container's endpoint.
	AWS func(api.Lease) ([]byte, error)

	// Tell hears of trouble that nobody waits for, from several goroutines.
	Tell func(error)

	Getenv func(string) string
}

// An extension is one run.
type extension struct {
	Options
	lambda *runtime
	folder *folder
	web    net.Listener
	bearer api.Secret

	opening sync.Once
	started chan struct{} // closed by open
	set     *function.Set
	failed  error // why there is no set

	mu      sync.Mutex // of the files
	problem string     // with them; "": none
	life    context.Context
	end     context.CancelFunc
	running sync.WaitGroup
}

// Run is the whole life of an extension: until Lambda ends it, or ctx does. Its
// errors are Failures, where something can be done about them.
func (o Options) Run(ctx context.Context) error {
	e := &extension{Options: o, lambda: newRuntime(o.Runtime), started: make(chan struct{})}
	e.life, e.end = context.WithCancel(context.Background())
	defer e.close()
	problem := e.prepare()
	if err := e.lambda.register(ctx, o.Name, o.events()); err != nil {
		return plain(errors.Join(problem, err))
	}
	if problem == nil {
		problem = e.start(ctx)
	}
	if problem != nil {
		if err := e.lambda.initError(ctx, errorType(problem), explain(problem)); err != nil {
			e.Tell(err)
		}
		return plain(problem)
	}
	return e.follow(ctx)
}

// Lambda's kinds of sandboxes that need another treatment.
const (
	kindVariable = "AWS_LAMBDA_INITIALIZATION_TYPE"
	snapStart    = "snap-start"               // is copied after its start
	managed      = "lambda-managed-instances" // runs many invocations at once, and is never frozen
)

// events are those that Lambda tells of.
func (o Options) events() []string {
	if o.Getenv(kindVariable) == managed {
		return []string{shutdown} // Lambda has no other there
	}
	return []string{invoke, shutdown}
}

// prepare does all that the function may find when its own code starts.
func (e *extension) prepare() (err error) {
	if err := e.check(); err != nil {
		return err
	}
	address := net.JoinHostPort("127.0.0.1", strconv.Itoa(e.Port))
	if e.web, err = net.Listen("tcp", address); err != nil { // before the folder: it may be that of who listens
		return exchange.Failf(exchange.Misconfigured, "another extension may listen there: set BREVET_PORT to another port, and tell the function of it", "listening for the function: %w", err)
	}
	if e.folder, err = openFolder(e.Dir, e.Files); err != nil {
		return err
	}
	e.bearer = newBearer()
	if err := e.folder.write(e.folder.tokenPath(), e.bearer.Reveal()); err != nil {
		return exchange.Failf(exchange.Misconfigured, "", "writing the token: %w", err)
	}
	e.running.Go(e.serve)
	return nil
}

// check names the variable that cannot be right: who sees its error has set variables.
func (o Options) check() error {
	if err := exchange.CheckBroker(o.Broker); err != nil {
		return exchange.Failf(exchange.Misconfigured, "set it, for the function, to the url in the broker's configuration, byte for byte, without a slash at its end", "BREVET_BROKER: %w", err)
	}
	if err := exchange.CheckNames(o.Credentials); err != nil {
		return exchange.Failf(exchange.Misconfigured, "set it, for the function, to the names of credentials in the broker's configuration, separated by commas", "BREVET_CREDENTIALS: %w", err)
	}
	for _, name := range o.Credentials {
		if o.Files && !isFileName(name) {
			return exchange.Failf(exchange.Misconfigured, "", "BREVET_CREDENTIALS: %s cannot be the name of a folder", exchange.Printable(name))
		}
	}
	return nil
}

// open lets requests have what there is: set or failed.
func (e *extension) open() { e.opening.Do(func() { close(e.started) }) }

// start makes the first exchange. A sandbox with SnapStart has none yet, and answers
// nobody: what it got would be copied into all that are made of it.
func (e *extension) start(ctx context.Context) error {
	snapshot := e.Getenv(kindVariable) == snapStart
	defer func() {
		if !snapshot || e.failed != nil {
			e.open()
		}
	}()
	source, err := e.source()
	if err != nil {
		e.failed = err
		return err
	}
	o := e.Function
	o.Source, o.OnError, o.Later = source, e.Tell, snapshot
	ctx, cancel := context.WithTimeout(ctx, initTime)
	defer cancel()
	if e.set, e.failed = o.NewWithSource(ctx, e.Broker, e.Credentials...); e.failed != nil {
		return e.failed
	}
	if e.Files {
		e.sync()
		e.running.Go(e.keepFiles)
	}
	return nil
}

// source is STS, or where there is none, as under AWS's emulator, the file that the
// function's environment names.
func (e *extension) source() (function.Source, error) {
	if path := e.Getenv(function.TokenFileVariable); path != "" {
		return function.TokenFile(path), nil
	}
	return ststoken.New(e.Getenv, e.Port)
}

// follow does what is due at each event, until the last.
func (e *extension) follow(ctx context.Context) error {
	for {
		next, err := e.lambda.next(ctx)
		switch {
		case ctx.Err() != nil:
			e.giveBack(endTime)
			return nil
		case err != nil:
			e.giveBack(endTime)
			return err
		case next.Type == shutdown:
			e.giveBack(next.left(time.Now()))
			return nil
		}
		e.open()
		e.settle(ctx) // an invocation has begun
	}
}

// settle does what is due, as long as it may take. Why it could not, Tell has heard.
func (e *extension) settle(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, settleTime)
	defer cancel()
	e.sync() // without what ended while the sandbox was frozen
	e.set.Refresh(ctx)
	e.sync()
}

// left is how long the extension has for the event.
func (e *event) left(now time.Time) time.Duration {
	left := time.UnixMilli(e.Deadline).Sub(now) - endReserve
	if left <= 0 || left > endTime {
		return endTime // one of the clocks is wrong
	}
	return left
}

// sync makes the files hold what is in force. What is in its way is told once, as
// long as it stays.
func (e *extension) sync() {
	e.mu.Lock()
	defer e.mu.Unlock()
	problem := ""
	if err := e.folder.sync(e.Credentials, e.set.Peek); err != nil {
		problem = explain(err)
	}
	if problem != "" && problem != e.problem {
		e.Tell(errors.New(problem))
	}
	e.problem = problem
}

// keepFiles does so as long as the extension lives.
func (e *extension) keepFiles() {
	ticker := time.NewTicker(syncEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
			e.sync()
		case <-e.life.Done():
			return
		}
	}
}

// giveBack revokes what there is. What is not revoked in time ends by its ttl.
func (e *extension) giveBack(within time.Duration) {
	timer := time.NewTimer(within)
	defer timer.Stop()
	done := make(chan error, 1)
	go func() { done <- e.set.Close(context.Background()) }() // ends with the process, if not before
	e.close()                                                 // meanwhile: a disk can be slow
	select {
	case err := <-done:
		if err != nil {
			e.Tell(err)
		}
	case <-timer.C:
		e.Tell(errors.New("the broker did not confirm in time that the leases are revoked; they end by their ttl"))
	}
}

// close takes the extension out of reach, and wipes what it wrote. It may be called
// again.
func (e *extension) close() {
	e.end()
	if e.web != nil {
		e.web.Close()
	}
	e.running.Wait()
	if e.folder == nil {
		return
	}
	if err := wipe(e.folder.dir); err != nil {
		e.Tell(err)
	}
	e.folder = nil
}

// newBearer returns what only who can read the file of it can know: 256 bits.
func newBearer() api.Secret {
	raw := make([]byte, 32)
	rand.Read(raw) // never fails: crypto/rand
	return api.NewSecret(base64.RawURLEncoding.EncodeToString(raw))
}

// errorType is what Lambda's console and metrics show of an error.
func errorType(err error) string {
	if f, ok := errors.AsType[*exchange.Failure](err); ok {
		switch f.Kind {
		case exchange.Misconfigured:
			return "Extension.Misconfigured"
		case exchange.Denied:
			return "Extension.Denied"
		case exchange.Unavailable:
			return "Extension.Unavailable"
		case exchange.Protocol:
			return "Extension.Protocol"
		}
	}
	return "Extension.Failed"
}

// plain returns the failure that err tells of, if there is one: what was wrong,
// apart from what can be done about it.
func plain(err error) error {
	if f, ok := errors.AsType[*exchange.Failure](err); ok {
		return f
	}
	return err
}

// explain makes one text of both.
func explain(err error) string {
	if f, ok := errors.AsType[*exchange.Failure](err); ok && f.Hint != "" {
		return f.Error() + "; " + strings.ReplaceAll(f.Hint, "\n", "; ")
	}
	return err.Error()
}
