package keys

import (
	"bytes"
	"context"
	"crypto/x509"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net/url"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/singleflight"

	"github.com/brevet-dev/brevet/broker"
)

const (
	// lookEvery is how often a broker reads the board: how long a key of a
	// broker that just started may be missing from the JWKS of another.
	lookEvery = 5 * time.Second

	// lookAgain is the least time between two readings that tokens with an
	// unknown kid cause; anyone can send those.
	lookAgain = time.Second

	// lookTimeout bounds one reading or publication.
	lookTimeout = 3 * time.Second

	// checkEvery is how often the root is asked whether it could sign, so that
	// one that is away is known hours before it is needed.
	checkEvery = time.Minute

	// checkAgain is how often one that is away is asked: how long it may take to
	// notice that it is back.
	checkAgain = 10 * time.Second

	// checkTimeout bounds one such question; a TPM takes well under a second.
	checkTimeout = 10 * time.Second
)

// EpochOptions are the options of [NewEpochs].
type EpochOptions struct {
	// URL is the broker's: the issuer of its tokens. Certificates of epochs are
	// bound to it. All brokers that share a board have the same.
	URL string

	// Roots returns the certificates of all roots whose epochs count: the
	// fleet's, this broker's own among them. What it returns may change. nil:
	// this broker's only.
	Roots func() []*x509.Certificate

	// Log gets a line when the root or the board fails, and when it is back.
	// nil: none.
	Log *slog.Logger
}

// Epochs makes epoch keys when they are due, signs with the current one, and
// knows those of other brokers. All methods may be called at any time, by any
// goroutine, but Start and Run.
type Epochs struct {
	root      Root
	authority authority
	board     Board
	log       *slog.Logger
	state     atomic.Pointer[state] // replaced, never changed: Sign and Verify do not wait
	looking   singleflight.Group

	mu       sync.Mutex // guards what follows, and replacing state
	looked   time.Time  // when the last look began
	refused  int        // by the last look
	boardErr error
	rootErr  error

	// Used by the goroutine of Start and Run only.
	end     time.Time // of the last epoch made
	due     time.Time // when the next is to be made
	checked time.Time
}

// A state is what Sign, Verify and JWKS need.
type state struct {
	own   []*epoch                // in the order in which they sign
	known map[string]*certificate // by kid; own and others'
	jwks  []byte
	ends  time.Time // when a key in jwks ends
}

// NewEpochs returns Epochs that cannot sign yet: see [Epochs.Start].
func NewEpochs(root Root, board Board, o EpochOptions) *Epochs {
	e := &Epochs{root: root, authority: authority{o.Roots, o.URL}, board: board, log: o.Log}
	if e.log == nil {
		e.log = slog.New(slog.DiscardHandler)
	}
	if o.Roots == nil {
		own := []*x509.Certificate{root.Certificate()}
		e.authority.roots = func() []*x509.Certificate { return own }
	}
	e.state.Store(newState(nil, map[string]*certificate{}, time.Now()))
	return e
}

// Start reads what other brokers published, and makes and publishes the current
// epoch and the next. After an error nothing can be signed, and Start may be
// called again.
func (e *Epochs) Start(ctx context.Context) error {
	if u, err := url.Parse(e.authority.url); err != nil || u.Host == "" || u.String() != e.authority.url {
		return fmt.Errorf("starting epochs: %q is not a url", e.authority.url)
	}
	if err := e.look(ctx); err != nil {
		return err
	}
	now := time.Now().UTC().Truncate(time.Second) // the grain of X.509; and the wall clock counts, not the monotonic one
	current, err := e.publish(ctx, now, now.Add(-skew))
	if err != nil {
		return err
	}
	next, err := e.publish(ctx, now, current.until)
	if err != nil {
		return err
	}
	e.add(now, current, next)
	e.plan(next.until)
	return nil
}

// Run makes each next epoch when it is due, and follows the board, until ctx
// ends. What fails is tried again every few seconds and reported by
// [Epochs.Status].
func (e *Epochs) Run(ctx context.Context) {
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			e.step(ctx, time.Now().UTC().Truncate(time.Second))
		}
	}
}

func (e *Epochs) step(ctx context.Context, now time.Time) {
	if err := e.look(ctx); err != nil && ctx.Err() != nil {
		return
	}
	e.add(now) // drops what has ended
	switch {
	case !now.Before(e.due), e.idle(now):
		e.report(&e.rootErr, "renewing the epoch key", e.renew(ctx, now))
	case now.Sub(e.checked) >= e.patience():
		e.checked = now
		e.report(&e.rootErr, "checking the root key", e.check(ctx))
	}
}

// patience is how long after the last question to the root the next is asked.
func (e *Epochs) patience() time.Duration {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.rootErr != nil {
		return checkAgain
	}
	return checkEvery
}

func (e *Epochs) check(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, checkTimeout)
	defer cancel()
	return e.root.Check(ctx)
}

// idle reports whether no epoch signs at now: the root was away for too long,
// or the clock jumped over a border, back or ahead.
func (e *Epochs) idle(now time.Time) bool {
	_, err := e.current(now)
	return err != nil
}

// renew makes the epoch that follows the last one; or, if none signs now, one
// that signs at once.
func (e *Epochs) renew(ctx context.Context, now time.Time) error {
	from := e.end
	if e.idle(now) {
		from = now.Add(-skew)
	}
	ep, err := e.publish(ctx, now, from)
	if err != nil {
		return err
	}
	e.add(now, ep)
	e.plan(ep.until)
	return nil
}

// plan sets when the epoch that follows end is made: Ahead of it, and up to
// jitter earlier.
func (e *Epochs) plan(end time.Time) {
	e.end, e.due = end, end.Add(-Ahead-rand.N(jitter))
}

// publish makes an epoch and puts its certificate on the board. It is used only
// if that succeeded: else no other broker would accept what it signs.
func (e *Epochs) publish(ctx context.Context, now, from time.Time) (*epoch, error) {
	ep, err := e.authority.issue(e.root, now, from)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	return ep, e.board.Publish(ctx, ep.cert.kid, ep.cert.x509.Raw, ep.cert.x509.NotAfter)
}

// add replaces the state by one with more epochs, and without those that have
// ended: a private key does not stay in memory after its last signature.
func (e *Epochs) add(now time.Time, more ...*epoch) {
	e.mu.Lock()
	defer e.mu.Unlock()
	s := e.state.Load()
	var own []*epoch
	for _, ep := range append(s.own[:len(s.own):len(s.own)], more...) {
		if now.Before(ep.until) {
			own = append(own, ep)
		}
	}
	if len(more) == 0 && len(own) == len(s.own) {
		return
	}
	known := maps.Clone(s.known)
	for _, ep := range more {
		known[ep.cert.kid] = ep.cert
	}
	e.state.Store(newState(own, known, now))
}

// ReadEpochs returns what is on a board and is an epoch of the broker at url by
// one of roots, DER, in order: for a trust bundle, without a key.
func ReadEpochs(ctx context.Context, board Board, roots []*x509.Certificate, url string, now time.Time) ([][]byte, error) {
	all, err := board.All(ctx)
	if err != nil {
		return nil, err
	}
	a := authority{func() []*x509.Certificate { return roots }, url}
	var out [][]byte
	for _, der := range all {
		if _, err := a.accept(der, now); err == nil {
			out = append(out, der)
		}
	}
	slices.SortFunc(out, bytes.Compare)
	return out, nil
}

// find returns the certificate with a kid that a token named.
func (e *Epochs) find(ctx context.Context, kid string) (*certificate, error) {
	if c := e.known(kid); c != nil {
		return c, nil
	}
	if err := e.look(ctx); err != nil {
		return nil, fmt.Errorf("%w: %w", broker.ErrUnavailable, err)
	}
	if c := e.known(kid); c != nil {
		return c, nil
	}
	return nil, fmt.Errorf("%w: its key is not known", ErrToken)
}

func (e *Epochs) known(kid string) *certificate {
	if c := e.state.Load().known[kid]; c != nil && c.valid(time.Now()) {
		return c
	}
	return nil
}

// look reads the board and takes over what proves itself: once for all who ask
// at the same time. If it was read within lookAgain they wait until that is
// over: what they ask for may have been published since. After a failure they
// do not, and get that.
func (e *Epochs) look(ctx context.Context) error {
	if err := e.awaitLook(ctx); err != nil {
		return err
	}
	done := e.looking.DoChan("", func() (any, error) {
		if left, err := e.untilLook(); left > 0 { // another's, after this one began to wait
			return nil, err
		}
		e.beginLook()
		// Not ended by the one of many callers that happened to be first.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), lookTimeout)
		defer cancel()
		all, err := e.board.All(ctx)
		e.learn(all, time.Now())
		if err == nil {
			err = e.putBack(ctx, all, time.Now())
		}
		e.report(&e.boardErr, "reading the board of epochs", err)
		return nil, err
	})
	select {
	case <-ctx.Done():
		return ctx.Err()
	case r := <-done:
		return r.Err
	}
}

// awaitLook waits until the board may be read again. It returns the error of the
// last reading if that was within lookAgain.
func (e *Epochs) awaitLook(ctx context.Context) error {
	left, err := e.untilLook()
	if left <= 0 || err != nil {
		return err
	}
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(left):
		return nil
	}
}

// untilLook returns how long the board may not be read, and the error of the
// last reading if it may not.
func (e *Epochs) untilLook() (time.Duration, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	left := lookAgain - time.Since(e.looked)
	if left <= 0 {
		return left, nil
	}
	return left, e.boardErr
}

func (e *Epochs) beginLook() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.looked = time.Now()
}

// learn adds those of the certificates that are epochs'. The rest, at most
// MaxBoard, costs a signature check each, which is 0.1 s at every look.
func (e *Epochs) learn(all map[string][]byte, now time.Time) {
	e.mu.Lock()
	defer e.mu.Unlock()
	s := e.state.Load()
	known := e.trusted(s.known)
	changed := len(known) != len(s.known)
	e.refused = 0
	for kid, der := range all {
		if c := known[kid]; c != nil && bytes.Equal(c.x509.Raw, der) {
			continue
		}
		c, err := e.authority.accept(der, now)
		if err != nil || c.kid != kid || known[kid] != nil {
			e.refused++
			continue
		}
		known[kid], changed = c, true
	}
	if changed {
		e.state.Store(newState(s.own, known, now))
	}
}

// putBack puts up again what the board has lost, in a failover of Redis or with
// all its data: what is known here, a broker that starts must know, too.
func (e *Epochs) putBack(ctx context.Context, all map[string][]byte, now time.Time) error {
	if len(all) >= MaxBoard {
		return nil // it may be there
	}
	for kid, c := range e.state.Load().known {
		if all[kid] != nil || !now.Before(c.x509.NotAfter) {
			continue
		}
		if err := e.board.Publish(ctx, kid, c.x509.Raw, c.x509.NotAfter); err != nil {
			return err
		}
	}
	return nil
}

// trusted returns a copy of known without the epochs of roots that have left
// the fleet.
func (e *Epochs) trusted(known map[string]*certificate) map[string]*certificate {
	roots, out := e.authority.roots(), maps.Clone(known)
	maps.DeleteFunc(out, func(_ string, c *certificate) bool { return !slices.ContainsFunc(roots, c.root.Equal) })
	return out
}

// report keeps how an attempt ended, and logs it if that is news.
func (e *Epochs) report(where *error, what string, err error) {
	e.mu.Lock()
	before := *where
	*where = err
	e.mu.Unlock()
	switch {
	case err != nil && (before == nil || before.Error() != err.Error()):
		e.log.Error(what+" failed", "root", e.root.Kind(), "err", err)
	case err == nil && before != nil:
		e.log.Info(what+" works again", "root", e.root.Kind())
	}
}

// A Status is what metrics and readiness want to know of [Epochs].
type Status struct {
	RootKind string
	KeyID    string    // of the key that signs now; "" if none does
	Until    time.Time // nothing can be signed after that without the root; zero if nothing can be now
	Keys     int       // known: own and others', until their last token is over
	Refused  int       // on the board at the last look, and not an epoch of this root and URL
	RootErr  error     // why the root could not be used at the last attempt; nil if it could
	BoardErr error     // why the board could not be read at the last attempt; nil if it could
}

// maxBundled bounds the epochs in a trust bundle: with as many brokers as a fleet
// may have, it stays below trust.MaxBundle.
const maxBundled = 500

// Certificates returns those of all epochs that are known and valid now, of roots
// that are in the fleet now, DER, for the trust bundle: the latest of each root,
// if there are more than 500.
func (e *Epochs) Certificates() [][]byte {
	var out [][]byte
	now := time.Now()
	for _, c := range latestOfEach(e.trusted(e.state.Load().known)) {
		if c.valid(now) && len(out) < maxBundled {
			out = append(out, c.x509.Raw)
		}
	}
	slices.SortFunc(out, bytes.Compare)
	return out
}

// Status returns how things are now.
func (e *Epochs) Status() Status {
	e.mu.Lock()
	defer e.mu.Unlock()
	s := e.state.Load()
	out := Status{
		RootKind: e.root.Kind(), Keys: len(s.known), Refused: e.refused,
		RootErr: e.rootErr, BoardErr: e.boardErr,
	}
	if ep, err := e.current(time.Now()); err == nil {
		out.KeyID, out.Until = ep.cert.kid, s.own[len(s.own)-1].until
	}
	return out
}
