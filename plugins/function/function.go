// Package function gets credentials for a serverless function while it starts,
// and keeps them fresh: with the identity that its platform gives it, and no
// stored secret.
//
//	var credentials *function.Set // made once, outside of the handler
//
//	credentials, err = function.New(ctx, "https://broker.example.com", "database")
//	…
//	database, err := credentials.Get(ctx, "database") // in the handler: from memory
//	password, err := database.Value("password")
//
// [New] exchanges once for all credentials, with the identity that source.go
// finds. Whatever is handed out afterwards is in force: refresh.go replaces it in
// the background at two thirds of its time, clock.go notices when the sandbox was
// frozen, and confirm.go asks the broker whether something was revoked.
//
// A refresh is another exchange: all credentials in one round trip, sealed, with
// the identity of that moment, and the same whether the sandbox ran or was frozen
// past the end of its session. What it replaces ends by its own time, since
// callers may be at work with it; [Set.Close] ends it, too.
//
// Secrets travel as [Secret], which does not print.
package function

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/brevet-dev/brevet/broker/api"
	"github.com/brevet-dev/brevet/plugins/exchange"
)

// A Secret does not print; its Reveal gives the value.
type Secret = api.Secret

const (
	// initTime bounds New where its context does not. An answer on its way is waited
	// for five seconds more, and AWS Lambda gives a function ten to start.
	initTime = 4500 * time.Millisecond

	// defaultStale is the MaxStale of those who give none.
	defaultStale = time.Minute
)

// Options say what the defaults do not. The zero value is good.
type Options struct {
	// TTL asks for shorter lives than the policy grants. 0: as granted.
	TTL time.Duration

	// Audience is what the platform's token is asked for: the audience of the
	// issuer in the broker's configuration. "": what BREVET_AUDIENCE says, else the
	// broker's URL. Azure needs the id of an application there.
	Audience string

	// Platform says where the function runs, one of Platforms, instead of what its
	// environment tells. "": find out.
	Platform string

	// AWS gets the token on AWS: package awsidentity makes one. It is apart from
	// this package so that only functions on AWS link the AWS SDK. nil: not on AWS.
	AWS Source

	// Source gets the token, whatever the platform. nil: find out.
	Source Source

	// StartWithout lets New return when the broker or the platform could not be
	// reached in time: then Get tries. What is refused still is an error of New.
	StartWithout bool

	// Later lets New return without any exchange: the first Get makes it, or Refresh,
	// and the key of the sessions. It is for what is copied after New, such as sandboxes
	// with Lambda's SnapStart.
	Later bool

	// MaxStale is for how long a credential is used on the broker's word. A Get
	// after that first asks whether it was revoked; one that cannot ask has it all
	// the same. While the function is at work this is asked in the background.
	// 0: one minute; negative: never.
	MaxStale time.Duration

	// Listen keeps a connection to the broker, which tells at once what was revoked:
	// where the process runs between requests, on Kubernetes, Fly.io, virtual machines,
	// Cloud Run with CPU always allocated. Where it is frozen MaxStale does the work.
	Listen bool

	// KeyFile keeps the DPoP key, in a file of mode 0600 that is made if it is not
	// there. A process that starts again under the same token, as in a pod, or beside
	// others of its user, needs the same key. "": what BREVET_KEY_FILE names; if that
	// is not set, a key that ends with the process.
	KeyFile string

	// CAFile names PEM certificates to trust besides the system's. "": none.
	CAFile string

	// HTTPClient reaches the broker, instead of one that CAFile and the environment's
	// proxy make. It must not follow redirects.
	HTTPClient *http.Client

	// OnError hears why a refresh or a question after revocations did not succeed;
	// what is in force is used on. It is called by several goroutines. nil: nobody.
	OnError func(error)

	host host // what tests replace
}

// A host is what surrounds the function; zero: the real one.
type host struct {
	getenv    func(string) string
	now       func() instant
	flySocket string
	podToken  string
	vercel    string // URL
}

// A Set is the credentials of one function. It is safe for concurrent use.
type Set struct {
	options     Options
	credentials []string
	client      *exchange.Client // from the first exchange on
	connect     func() error     // makes it, once: a copy that is made before has another key
	http        *http.Client
	hangUp      func() // at the end
	source      Source
	now         func() instant

	state atomic.Pointer[state] // nil: nothing yet
	used  atomic.Bool           // since the broker was last asked
	news  chan struct{}         // has one when there is another session

	life    context.Context // ends with Close
	end     context.CancelFunc
	running sync.WaitGroup

	mu         sync.Mutex
	refreshing *flight      // nil: no exchange under way
	confirming *flight      // nil: no question under way
	retired    []api.Secret // sessions that were replaced, and may live
	trouble    trouble
	other      string  // who is to answer
	failed     error   // why its last try of the exchange under way had no answer; nil: none had failed
	wire       instant // when the broker was last spoken to; zero: never
	closed     bool
}

// New exchanges the function's identity for credentials, the names of at least
// one in the broker's configuration. broker is its url, byte for byte as there.
//
// It tries until ctx ends; where ctx has no deadline, for four and a half seconds. An
// answer that is on its way then is waited for, five seconds more. On Vercel, where
// the identity comes with each request, there is nothing to exchange yet: then the
// first [Set.Get] does. Close the Set.
func New(ctx context.Context, broker string, credentials ...string) (*Set, error) {
	return Options{}.New(ctx, broker, credentials...)
}

// New is [New] with options.
func (o Options) New(ctx context.Context, broker string, credentials ...string) (*Set, error) {
	if o.Source == nil {
		var err error
		if o.Source, err = o.find(); err != nil {
			return nil, explain(err)
		}
	}
	s, err := o.NewWithSource(ctx, broker, credentials...)
	if err == nil && o.Listen {
		s.running.Go(s.listen)
	}
	return s, err
}

// NewWithSource is New without what a program need not link that has a Source and
// is frozen: the platforms, and Listen. They are a third of this package.
func (o Options) NewWithSource(ctx context.Context, broker string, credentials ...string) (*Set, error) {
	s, err := o.set(broker, credentials)
	if err != nil {
		return nil, explain(err)
	}
	if _, ok := ctx.Deadline(); !ok {
		short, cancel := context.WithTimeout(ctx, initTime)
		defer cancel()
		ctx = short
	}
	if !o.Later {
		err = s.exchange(ctx)
	}
	if err != nil && !errors.Is(err, ErrNoRequest) && !(o.StartWithout && exchange.IsKind(err, exchange.Unavailable)) {
		s.end()
		return nil, explain(err)
	}
	if err != nil {
		s.tell(err)
	}
	s.running.Go(s.tend)
	return s, nil
}

// set makes a Set that has nothing yet.
func (o Options) set(broker string, credentials []string) (*Set, error) {
	if err := exchange.CheckNames(credentials); err != nil {
		return nil, err
	}
	if o.Source == nil {
		return nil, exchange.Failf(exchange.Misconfigured, "", "no source of the function's token")
	}
	o.host = o.host.orReal()
	o.Audience, o.MaxStale = cmp.Or(o.Audience, o.host.getenv(AudienceVariable), broker), cmp.Or(o.MaxStale, defaultStale)
	hangUp := func() {} // what is lent to us has other uses
	if o.HTTPClient == nil {
		client, err := exchange.NewHTTPClient(cmp.Or(o.CAFile, o.host.getenv("BREVET_CA_FILE")))
		if err != nil {
			return nil, err
		}
		o.HTTPClient, hangUp = client, client.CloseIdleConnections
	}
	if err := exchange.CheckBroker(broker); err != nil {
		return nil, err
	}
	s := &Set{
		options: o, credentials: slices.Clone(credentials), http: o.HTTPClient, hangUp: hangUp, source: jwtSource{o.Source}, now: o.host.now,
		news: make(chan struct{}, 1), other: "the broker",
	}
	s.connect = sync.OnceValue(func() error { return s.makeClient(broker) })
	s.life, s.end = context.WithCancel(context.Background())
	return s, nil
}

// makeClient makes the client with its key.
func (s *Set) makeClient(broker string) error {
	key, err := s.options.key()
	if err == nil {
		s.client, err = exchange.NewClient(broker, s.http, key)
	}
	return err
}

// key returns the key that exchanges are made with.
func (o Options) key() (*exchange.Key, error) {
	path := cmp.Or(o.KeyFile, o.host.getenv("BREVET_KEY_FILE"))
	if path == "" {
		return exchange.NewKey()
	}
	key, err := exchange.KeyFile(path)
	if err != nil {
		return nil, exchange.Failf(exchange.Misconfigured, exchange.KeyFileHint, "%w", err)
	}
	return key, nil
}

// ErrClosed is the error of a Set that was closed.
var ErrClosed = errors.New("function: the credentials were given back")

// Get returns a credential that is in force, from memory if there is one. Where
// there is none it waits for an exchange, until ctx ends.
func (s *Set) Get(ctx context.Context, credential string) (*Credential, error) {
	if st := s.state.Load(); st != nil {
		now := s.now()
		if w := st.calm.Load(); w != nil && w.has(now) && st.clocks.sees(now) {
			if c := st.credentials[credential]; c != nil {
				if !s.used.Load() {
					s.used.Store(true)
				}
				return c, nil
			}
		}
	}
	if !slices.Contains(s.credentials, credential) {
		return nil, fmt.Errorf("function: %q is not among the credentials that New was given", exchange.Printable(credential))
	}
	s.used.Store(true)
	c, err := s.get(ctx, credential)
	return c, explain(err)
}

// Peek returns a credential if there is one in force, and asks nobody: for those who
// keep a copy, such as a file, and must know when it changes. nil says that there
// is none.
func (s *Set) Peek(credential string) *Credential {
	st := s.state.Load()
	if st == nil {
		return nil
	}
	s.used.Store(true)
	return st.usable(credential, s.now())
}

// Close gives everything back, within five seconds or so: it ends the sessions at
// the broker. What cannot be ended by then ends by its time, and the error says so.
// A sandbox that is not told of its end needs no Close.
func (s *Set) Close(ctx context.Context) error {
	s.mu.Lock()
	already := s.closed
	s.closed = true
	s.mu.Unlock()
	if already {
		return nil
	}
	s.end()
	s.thaw()
	var known error
	var revoking sync.WaitGroup
	revoking.Go(func() { known = s.giveBack(ctx) })
	s.running.Wait() // an exchange on its way may bring another session
	late := s.giveBack(ctx)
	revoking.Wait()
	s.hangUp()
	return explain(errors.Join(known, late))
}

// giveBack ends all sessions that there are now.
func (s *Set) giveBack(ctx context.Context) error {
	s.mu.Lock()
	if st := s.state.Swap(nil); st != nil {
		s.retire(st.session)
	}
	sessions := s.retired
	s.retired = nil
	s.mu.Unlock()
	errs := make([]error, len(sessions))
	var revoking sync.WaitGroup
	for i, session := range sessions {
		revoking.Go(func() { errs[i] = s.client.Revoke(ctx, session) })
	}
	revoking.Wait()
	return errors.Join(errs...)
}

// Format implements [fmt.Formatter]: a Set does not print.
func (*Set) Format(f fmt.State, _ rune) { io.WriteString(f, "[credentials]") }

// explain makes one text of an error and of what can be done about it: functions
// log texts.
func explain(err error) error {
	if err == nil || errors.Is(err, ErrClosed) {
		return err
	}
	if f, ok := errors.AsType[*exchange.Failure](err); ok && f.Hint != "" {
		return fmt.Errorf("function: %w; %s", err, strings.ReplaceAll(f.Hint, "\n", "; "))
	}
	return fmt.Errorf("function: %w", err)
}
