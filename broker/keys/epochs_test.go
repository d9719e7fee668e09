package keys_test

import (
	"context"
	"crypto"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/brevet-dev/brevet/broker"
	"github.com/brevet-dev/brevet/broker/keys"
)

const brokerURL = "https://broker.example.com"

type claims struct {
	IssuedAt int64  `json:"iat"`
	ID       string `json:"jti"`
}

// memory is a board that can be taken away, and counts how often it is read.
type memory struct {
	mu    sync.Mutex
	certs map[string][]byte
	down  bool
	reads int
}

func (m *memory) Publish(_ context.Context, kid string, cert []byte, _ time.Time) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.down {
		return errors.New("the board is down")
	}
	if m.certs == nil {
		m.certs = make(map[string][]byte)
	}
	m.certs[kid] = cert
	return nil
}

func (m *memory) All(context.Context) (map[string][]byte, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.reads++
	if m.down {
		return nil, errors.New("the board is down")
	}
	return maps.Clone(m.certs), nil
}

func (m *memory) set(down bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.down = down
}

func (m *memory) count() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.reads
}

// faulty is a root that can be taken away.
type faulty struct {
	keys.Root
	away atomic.Bool
}

var errAway = errors.New("the root is away")

func (f *faulty) Signer() crypto.Signer { return faultySigner{f.Root.Signer(), f} }

func (f *faulty) Check(ctx context.Context) error {
	if f.away.Load() {
		return errAway
	}
	return f.Root.Check(ctx)
}

type faultySigner struct {
	crypto.Signer
	root *faulty
}

func (s faultySigner) Sign(r io.Reader, digest []byte, o crypto.SignerOpts) ([]byte, error) {
	if s.root.away.Load() {
		return nil, errAway
	}
	return s.Signer.Sign(r, digest, o)
}

func newRoot(t testing.TB) *keys.Software {
	t.Helper()
	root, err := keys.NewSoftware(time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return root
}

// start returns epochs that can sign.
func start(t testing.TB, root keys.Root, board keys.Board) *keys.Epochs {
	t.Helper()
	e := keys.NewEpochs(root, board, keys.EpochOptions{URL: brokerURL})
	if err := e.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	return e
}

// run returns epochs that renew until the test ends.
func run(t testing.TB, root keys.Root, board keys.Board) *keys.Epochs {
	t.Helper()
	e := start(t, root, board)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); e.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-done })
	return e
}

func sign(t testing.TB, e *keys.Epochs) string {
	t.Helper()
	token, err := e.Sign(t.Context(), "at+jwt", claims{time.Now().Unix(), "s1-x"})
	if err != nil {
		t.Fatal(err)
	}
	return token
}

func verify(e *keys.Epochs, token string) error {
	var got claims
	return e.Verify(context.Background(), "at+jwt", token, &got)
}

// A board that lost its data has it back before a broker that starts needs it.
func TestBoardIsRestored(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		root, board := newRoot(t), &memory{}
		token := sign(t, run(t, root, board))
		board.mu.Lock()
		clear(board.certs)
		board.mu.Unlock()
		time.Sleep(6 * time.Second) // until the broker has looked again
		if err := verify(start(t, root, board), token); err != nil {
			t.Errorf("a broker that started after the loss: %v", err)
		}
	})
}

// A relying verifies as a stranger does: from a copy of the JWKS, with another
// library's parser.
type relying struct {
	keys map[string]*x509.Certificate
}

func newRelying(t testing.TB, jwks []byte) relying {
	t.Helper()
	var set struct {
		Keys []struct {
			KeyID string   `json:"kid"`
			Chain []string `json:"x5c"`
		} `json:"keys"`
	}
	if err := json.Unmarshal(jwks, &set); err != nil {
		t.Fatal(err)
	}
	out := relying{make(map[string]*x509.Certificate)}
	for _, k := range set.Keys {
		der, err := base64.StdEncoding.DecodeString(k.Chain[0])
		if err != nil {
			t.Fatal(err)
		}
		if out.keys[k.KeyID], err = x509.ParseCertificate(der); err != nil {
			t.Fatal(err)
		}
	}
	return out
}

func (r relying) verify(token string) error {
	_, err := jwt.Parse(token, func(token *jwt.Token) (any, error) {
		kid, ok := token.Header["kid"].(string)
		if cert := r.keys[kid]; ok && cert != nil {
			return cert.PublicKey, nil
		}
		return nil, errors.New("unknown kid")
	}, jwt.WithValidMethods([]string{"ES256"}), jwt.WithStrictDecoding())
	return err
}

// TestSchedule follows a fleet of two for two days, with verifiers that fetch
// the JWKS once an hour, each at another minute, from one broker or the other.
func TestSchedule(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		root, board := newRoot(t), &memory{}
		brokers := []*keys.Epochs{run(t, root, board), run(t, root, board)}
		cached := make([]relying, 6)
		for i := range cached {
			cached[i] = newRelying(t, brokers[1].JWKS())
		}
		time.Sleep(6 * time.Second) // until the first has seen the second
		var tokens []string         // one every 10 minutes
		used := make(map[string]bool)
		for minute := 0; minute < 48*60; minute += 10 {
			i := minute / 10 % len(cached)
			cached[i] = newRelying(t, brokers[minute/60%2].JWKS())
			token := sign(t, brokers[minute/10%2])
			used[brokers[0].Status().KeyID] = true
			tokens = append(tokens, token)
			for i, r := range cached {
				if err := r.verify(token); err != nil {
					t.Fatalf("minute %d: verifier %d: %v", minute, i, err)
				}
			}
			oldest := tokens[max(0, len(tokens)-12*6)] // the longest-lived of 12 h
			if err := errors.Join(verify(brokers[0], oldest), verify(brokers[1], oldest)); err != nil {
				t.Fatalf("minute %d: verifying a token of 12 h ago: %v", minute, err)
			}
			if n := len(cached[i].keys); n > 2*5 {
				t.Fatalf("minute %d: %d keys in the JWKS of two brokers, want at most 10", minute, n)
			}
			time.Sleep(10 * time.Minute)
		}
		if len(used) != 8 {
			t.Errorf("%d epochs signed in 48 h, want 8", len(used))
		}
	})
}

// TestExpiry holds a token until no verifier may accept it any more.
func TestExpiry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := run(t, newRoot(t), &memory{})
		token := sign(t, e)
		time.Sleep(keys.Signs + keys.Verifiable)
		if err := verify(e, token); err != nil {
			t.Errorf("Verify, %v after the epoch began: %v", keys.Signs+keys.Verifiable, err)
		}
		time.Sleep(10 * time.Minute) // skew
		if err := verify(e, token); !errors.Is(err, keys.ErrToken) {
			t.Errorf("Verify after the end of its epoch = %v, want ErrToken", err)
		}
		if err := newRelying(t, e.JWKS()).verify(token); err == nil {
			t.Error("its key is still in the JWKS")
		}
	})
}

func TestRestart(t *testing.T) {
	root, board := newRoot(t), &memory{}
	before := start(t, root, board)
	token := sign(t, before)
	after := start(t, root, board)
	if err := verify(after, token); err != nil {
		t.Errorf("verifying a token of before the restart: %v", err)
	}
	if before.Status().KeyID == after.Status().KeyID {
		t.Error("two processes have one key")
	}
	if err := newRelying(t, after.JWKS()).verify(token); err != nil {
		t.Errorf("verifying it by the JWKS: %v", err)
	}
}

// TestNewBroker: a broker accepts the token of one that started after it had
// last read the board, at once.
func TestNewBroker(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		root, board := newRoot(t), &memory{}
		old := start(t, root, board) // which looks, and then not for a second
		token := sign(t, start(t, root, board))
		if err := verify(old, token); err != nil {
			t.Error(err)
		}
	})
}

// TestUnknownKeys: tokens that name keys nobody knows cause one look a second.
func TestUnknownKeys(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		board := &memory{}
		e := start(t, newRoot(t), board)
		token := sign(t, start(t, newRoot(t), &memory{})) // of a stranger
		time.Sleep(time.Second)
		before := board.count()
		var all sync.WaitGroup
		for range 10 {
			for range 100 {
				all.Go(func() {
					if err := verify(e, token); !errors.Is(err, keys.ErrToken) {
						t.Errorf("Verify = %v, want ErrToken", err)
					}
				})
			}
			time.Sleep(100 * time.Millisecond)
		}
		all.Wait()
		if n := board.count() - before; n != 2 { // at once for the first, and a second later for the rest
			t.Errorf("1 000 tokens in one second caused %d looks at the board, want 2", n)
		}
	})
}

func TestBoardDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		root, board := newRoot(t), &memory{down: true}
		e := keys.NewEpochs(root, board, keys.EpochOptions{URL: brokerURL})
		if err := e.Start(t.Context()); err == nil {
			t.Fatal("Start succeeded without a board")
		}
		if _, err := e.Sign(t.Context(), "at+jwt", claims{}); !errors.Is(err, broker.ErrUnavailable) {
			t.Errorf("Sign before Start = %v, want ErrUnavailable", err)
		}
		board.set(false)
		time.Sleep(2 * time.Second)
		if err := e.Start(t.Context()); err != nil {
			t.Fatalf("Start after the board came back: %v", err)
		}
		own, others := sign(t, e), sign(t, start(t, root, board))
		board.set(true)
		time.Sleep(2 * time.Second)
		if err := verify(e, own); err != nil {
			t.Errorf("verifying an own token without the board: %v", err)
		}
		if err := verify(e, others); !errors.Is(err, broker.ErrUnavailable) {
			t.Errorf("verifying another's token without the board = %v, want ErrUnavailable", err)
		}
		if e.Status().BoardErr == nil {
			t.Error("Status says nothing of the board")
		}
		board.set(false)
		time.Sleep(2 * time.Second)
		if err := verify(e, others); err != nil {
			t.Errorf("after the board came back: %v", err)
		}
		if err := e.Status().BoardErr; err != nil {
			t.Errorf("Status after the board came back: %v", err)
		}
	})
}

// TestRootAway: what was issued goes on until it ends, then nothing is signed,
// and it heals by itself.
func TestRootAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		root := &faulty{Root: newRoot(t)}
		e := run(t, root, &memory{})
		root.away.Store(true)
		time.Sleep(2*time.Minute + 10*time.Second)
		if err := e.Status().RootErr; !errors.Is(err, errAway) {
			t.Errorf("Status after two minutes: %v, want %v", err, errAway)
		}
		root.away.Store(false)
		time.Sleep(15 * time.Second)
		if err := e.Status().RootErr; err != nil {
			t.Errorf("Status 15 seconds after the root came back: %v", err)
		}
		root.away.Store(true)
		until := e.Status().Until
		time.Sleep(time.Until(until) - time.Second)
		token := sign(t, e)
		time.Sleep(2 * time.Second)
		if _, err := e.Sign(t.Context(), "at+jwt", claims{}); !errors.Is(err, broker.ErrUnavailable) {
			t.Errorf("Sign after the last epoch = %v, want ErrUnavailable", err)
		}
		if s := e.Status(); s.KeyID != "" || !s.Until.IsZero() {
			t.Errorf("Status after the last epoch: %+v", s)
		}
		if err := verify(e, token); err != nil {
			t.Errorf("verifying an issued token while the root is away: %v", err)
		}
		root.away.Store(false)
		time.Sleep(10 * time.Second)
		if err := verify(e, sign(t, e)); err != nil {
			t.Errorf("after the root came back: %v", err)
		}
		if err := e.Status().RootErr; err != nil {
			t.Errorf("Status after the root came back: %v", err)
		}
		time.Sleep(24 * time.Hour)
		sign(t, e)
	})
}

// A broker whose root was taken out of the fleet signs no more, and its tokens
// count nowhere.
func TestRootLeavesTheFleet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		board, ours, theirs := &memory{}, newRoot(t), newRoot(t)
		var fleet atomic.Pointer[[]*x509.Certificate]
		fleet.Store(&[]*x509.Certificate{ours.Certificate(), theirs.Certificate()})
		roots := func() []*x509.Certificate { return *fleet.Load() }
		ctx, cancel := context.WithCancel(t.Context())
		var done sync.WaitGroup
		defer done.Wait()
		defer cancel()
		member := func(root keys.Root) *keys.Epochs {
			e := keys.NewEpochs(root, board, keys.EpochOptions{URL: brokerURL, Roots: roots})
			if err := e.Start(ctx); err != nil {
				t.Fatal(err)
			}
			done.Go(func() { e.Run(ctx) })
			return e
		}
		stays, leaves := member(ours), member(theirs)
		time.Sleep(10 * time.Second)
		token := sign(t, leaves)
		if err := verify(stays, token); err != nil {
			t.Fatal(err)
		}
		fleet.Store(&[]*x509.Certificate{ours.Certificate()})
		time.Sleep(10 * time.Second)
		if err := verify(stays, token); !errors.Is(err, keys.ErrToken) {
			t.Errorf("Verify of one that left = %v", err)
		}
		if _, err := leaves.Sign(ctx, "at+jwt", claims{}); !errors.Is(err, broker.ErrUnavailable) {
			t.Errorf("Sign by one that left = %v", err)
		}
		if newRelying(t, stays.JWKS()).verify(token) == nil {
			t.Error("the JWKS still has its key")
		}
		sign(t, stays)
	})
}

func TestURLs(t *testing.T) {
	for _, u := range []string{
		"https://broker.example.com:8443/base", "http://127.0.0.1:8421", "http://[::1]:8421", "https://localhost:8443",
		"https://broker.example.com/", "https://xn--bcher-kva.example",
	} {
		e := keys.NewEpochs(newRoot(t), &memory{}, keys.EpochOptions{URL: u})
		if err := e.Start(t.Context()); err != nil {
			t.Errorf("Start with url %s: %v", u, err)
		} else if err := verify(e, sign(t, e)); err != nil {
			t.Errorf("Verify with url %s: %v", u, err)
		}
	}
}

func TestStartNeedsURL(t *testing.T) {
	for _, u := range []string{"", "broker", "https://", "https://b.example.com/%zz", "HTTPS://b.example.com"} {
		e := keys.NewEpochs(newRoot(t), &memory{}, keys.EpochOptions{URL: u})
		if err := e.Start(t.Context()); err == nil {
			t.Errorf("Start with url %q succeeded", u)
		}
	}
}

// TestConcurrent is for the race detector.
func TestConcurrent(t *testing.T) {
	root, board := newRoot(t), &memory{}
	e, other := start(t, root, board), start(t, root, board)
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for range 20 {
				token := sign(t, other)
				if err := verify(other, token); err != nil {
					t.Error(err)
				}
				if e.Status().KeyID == "" || len(e.JWKS()) == 0 {
					t.Error("no current key")
				}
			}
		})
	}
	all.Wait()
}

func BenchmarkSign(b *testing.B) {
	e := start(b, newRoot(b), &memory{})
	for b.Loop() {
		sign(b, e)
	}
}

func BenchmarkVerify(b *testing.B) {
	e := start(b, newRoot(b), &memory{})
	token := sign(b, e)
	for b.Loop() {
		if err := verify(e, token); err != nil {
			b.Fatal(err)
		}
	}
}
