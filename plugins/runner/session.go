// Package runner is the job's side of brevet: it finds the OIDC token that the
// platform gives the job (platform.go), exchanges it for leased credentials
// (client.go, package exchange), runs one command with them, masked (command.go, package
// mask), keeps them alive meanwhile (renew.go), and gives them back. Files are
// encrypted with data keys in the form that stanza.go describes.
//
// Secrets travel as api.Secret and are in clear in six places only: the requests
// to platform and broker, the command's environment, its files, what brevet get
// prints, the automaton of package mask, and, for one call each, the bytes of a
// data key that seals or opens a file key.
package runner

import (
	"context"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/brevet-dev/brevet/broker/api"
	"github.com/brevet-dev/brevet/plugins/exchange"
)

// revokeTimeout bounds the revocations at the end of a job. What cannot be revoked
// by then expires.
const revokeTimeout = 5 * time.Second

// Options say what a job wants, and from whom.
type Options struct {
	Broker      string        // its url, exactly as in its configuration: the audience of the job's token
	Credentials []string      // names in the broker's configuration
	TTL         time.Duration // asks for less than the policy grants; 0: as granted
	Timeout     time.Duration // for token and exchange together
	CAFile      string        // certificates to trust besides the system's; "": none
	Context     api.Context   // of the data keys among the credentials; nil: not said
	DataKey     KeyWish       // whether data keys are to be made
}

// A Session is what one exchange gave. Those that [Session.Keep] adds, where a
// lease cannot be renewed any more, end with it.
type Session struct {
	Answer *api.TokenResponse
	client *Client

	// again makes another exchange for one credential; nil: it cannot.
	again func(ctx context.Context, credential string) (*Session, error)

	leaked atomic.Bool // the broker has ended it because of a leak

	mu       sync.Mutex
	ends     time.Time // the last that a renewal gave; zero: none did
	others   []*Session
	ended    bool            // others are not added any more
	replaced map[string]bool // credentials that one of others has got
}

// Open finds the job's token and exchanges it once for all credentials. Its
// errors are Failures.
//
// When ctx cuts the exchange short it waits a little for what was asked for
// already, and may return a session, which the caller ends; see
// [Client.Exchange].
func Open(ctx context.Context, o Options, env Env) (*Session, error) {
	ctx, cancel := context.WithTimeout(ctx, o.Timeout)
	defer cancel()
	if err := CheckNames(o.Credentials); err != nil {
		return nil, err
	}
	if err := o.Context.Validate(); err != nil {
		return nil, failf(Misconfigured, "", "%w", err)
	}
	client, answer, err := o.exchange(ctx, env)
	if err != nil {
		return nil, err
	}
	return &Session{Answer: answer, client: client, again: func(ctx context.Context, credential string) (*Session, error) {
		o := o
		o.Credentials = []string{credential}
		return Open(ctx, o, env)
	}}, nil
}

// exchange makes the exchange, with the job's key. The connection to the broker is
// made while the platform is asked for the token.
func (o Options) exchange(ctx context.Context, env Env) (*Client, *api.TokenResponse, error) {
	hc, err := exchange.NewHTTPClient(o.CAFile)
	if err != nil {
		return nil, nil, err
	}
	keyless, err := NewClient(o.Broker, hc, nil) // refuses a URL before a token leaves the platform
	if err != nil {
		return nil, nil, err
	}
	source, err := FindSource(env, hc)
	if err != nil {
		return nil, nil, err
	}
	end := keyless.Connect(ctx)
	defer end()
	token, err := source.Token(ctx, o.Broker)
	if err != nil {
		return nil, nil, err
	}
	key, err := keyFor(env, token, source.KeepsToken)
	if err != nil {
		return nil, nil, err
	}
	client, err := NewClient(o.Broker, hc, key)
	if err != nil {
		return nil, nil, err
	}
	answer, err := client.Exchange(ctx, Request{token, o.Credentials, o.TTL, o.Context, o.DataKey})
	return client, answer, err
}

// CheckNames refuses names of credentials that cannot be asked for in one exchange.
func CheckNames(credentials []string) error {
	if err := exchange.CheckNames(credentials); err != nil {
		return failf(Misconfigured, "brevet exec --credential NAME[,NAME], brevet agent likewise, brevet get NAME[,NAME], or set BREVET_CREDENTIALS", "%w", err)
	}
	return nil
}

// Revoke ends the session and its leases, within five seconds, also when ctx is
// over already.
func (s *Session) Revoke(ctx context.Context) error {
	return s.endAll(ctx, func(*Session) string { return "" })
}

// endAll revokes s and the others, each with a scope, all at once.
func (s *Session) endAll(ctx context.Context, scope func(*Session) string) error {
	ctx, cancel := afterwards(ctx)
	defer cancel()
	all := append([]*Session{s}, s.stopAdding()...)
	problems := make([]error, len(all))
	var running sync.WaitGroup
	for i, one := range all {
		running.Go(func() { problems[i] = one.client.RevokeScope(ctx, one.Answer.AccessToken, scope(one)) })
	}
	running.Wait()
	return errors.Join(problems...)
}

// stopAdding returns the others, for their end.
func (s *Session) stopAdding() []*Session {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ended = true
	return s.others
}

// adopt makes other end with s. It is revoked at once if s has ended.
func (s *Session) adopt(ctx context.Context, other *Session) error {
	s.mu.Lock()
	ended := s.ended
	if !ended {
		s.others = append(slices.DeleteFunc(s.others, (*Session).lapsed), other)
	}
	s.mu.Unlock()
	if ended {
		return errors.Join(errors.New("the session has ended"), other.Revoke(ctx))
	}
	return nil
}

// extended notes the end that a renewal gave a lease.
func (s *Session) extended(end time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if end.After(s.ends) {
		s.ends = end
	}
}

// lapsed reports whether all leases of s ended by their time a while ago.
func (s *Session) lapsed() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	lives := func(end time.Time) bool { return time.Since(end) < time.Minute }
	return !lives(s.ends) && !slices.ContainsFunc(s.Answer.Leases, func(l api.Lease) bool { return lives(l.ExpiresAt) })
}

// replace notes that another session has got credential.
func (s *Session) replace(credential string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.replaced == nil {
		s.replaced = map[string]bool{}
	}
	s.replaced[credential] = true
}

// has reports whether l is s's own still.
func (s *Session) has(l api.Lease) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return !s.replaced[l.Credential]
}

// afterwards returns the context of what must be done although ctx may be over.
func afterwards(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(ctx), revokeTimeout)
}

// Revoke ends the session of token at the broker o.Broker; only what of it ends
// with its job, if scope is api.ScopeJob and not "".
func Revoke(ctx context.Context, o Options, token api.Secret, scope string) error {
	ctx, cancel := context.WithTimeout(ctx, o.Timeout)
	defer cancel()
	hc, err := exchange.NewHTTPClient(o.CAFile)
	if err != nil {
		return err
	}
	client, err := NewClient(o.Broker, hc, nil)
	if err != nil {
		return err
	}
	return client.RevokeScope(ctx, token, scope)
}
