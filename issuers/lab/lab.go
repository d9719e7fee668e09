// Package lab is an OIDC issuer for development and tests. It imitates the
// token endpoint of GitHub Actions and the claims of all presets, so that a job
// can be played without a platform. Whoever reaches its endpoint with the
// request token gets any claims signed that they like, so it listens on
// loopback only.
package lab

import (
	"cmp"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"time"

	"github.com/brevet-dev/brevet/issuers/presets"
)

// Options says how a Lab is to be. The zero value is GitHub's imitation.
type Options struct {
	// Preset is the platform whose claims are imitated, github by default;
	// generic has nothing but the registered claims.
	Preset string

	// URL is the issuer, iss. [Start] sets it where it is empty; [New] needs it.
	URL string

	// Listen is [Start]'s address, on loopback. Default: 127.0.0.1 and a free
	// port.
	Listen string

	// Algorithm signs: the preset's first by default. RSA keys have 2048 bits.
	Algorithm string

	// Claims replace the preset's default claims, name by name; nil removes one.
	// What the preset declares inside of an object has the preset's name.
	Claims map[string]any
}

// A Lab is one issuer with its keys. It is safe for concurrent use.
type Lab struct {
	URL          string // iss
	RequestURL   string // what a job has in ACTIONS_ID_TOKEN_REQUEST_URL; it has a query already
	RequestToken string // what a job has in ACTIONS_ID_TOKEN_REQUEST_TOKEN

	preset    *presets.Preset
	shape     shape
	algorithm string
	claims    map[string]any
	strange   signingKey // never published
	server    *http.Server
	served    chan error
	closing   chan struct{} // closed: what [Slow] holds up ends
	close     func()        // closes it, once

	mu    sync.Mutex
	keys  []signingKey // all published, the last one signs
	fault Fault
}

type signingKey struct {
	id        string
	algorithm string
	private   crypto.Signer
}

// New makes a Lab that listens nowhere: the caller serves its [Lab.Handler]
// under opts.URL.
func New(opts Options) (*Lab, error) {
	name := cmp.Or(opts.Preset, "github")
	claims, err := DefaultClaims(name)
	if err != nil {
		return nil, err
	}
	preset, known := presets.Known()[name]
	if !known {
		return nil, fmt.Errorf("the lab issuer imitates no preset %q", name)
	}
	shape, err := shapeOf(name)
	if err != nil {
		return nil, err
	}
	if opts.URL == "" {
		return nil, errors.New("the lab issuer needs a URL; it is the iss of its tokens")
	}
	merge(preset, claims, opts.Claims)
	l := &Lab{
		URL:          opts.URL,
		RequestURL:   opts.URL + "/token?api-version=2.0",
		RequestToken: rand.Text(),
		preset:       preset,
		shape:        shape,
		algorithm:    cmp.Or(opts.Algorithm, preset.Algorithms[0]),
		claims:       claims,
	}
	l.closing = make(chan struct{})
	l.close = sync.OnceFunc(func() { close(l.closing) })
	if l.strange, err = newKey(l.algorithm); err != nil {
		return nil, err
	}
	return l, l.Rotate()
}

// Start makes a Lab and serves it on a loopback address until [Lab.Close].
func Start(opts Options) (*Lab, error) {
	addr, err := netip.ParseAddrPort(cmp.Or(opts.Listen, "127.0.0.1:0"))
	if err != nil || !addr.Addr().IsLoopback() {
		return nil, fmt.Errorf("the lab issuer listens on loopback only, such as 127.0.0.1:9000, not on %q", opts.Listen)
	}
	listener, err := net.Listen("tcp", addr.String())
	if err != nil {
		return nil, fmt.Errorf("listening for the lab issuer: %w", err)
	}
	opts.URL = cmp.Or(opts.URL, "http://"+listener.Addr().String())
	l, err := New(opts)
	if err != nil {
		return nil, errors.Join(err, listener.Close())
	}
	l.server = &http.Server{Handler: l.Handler(), ReadHeaderTimeout: 5 * time.Second}
	l.served = make(chan error, 1)
	go func() { l.served <- l.server.Serve(listener) }()
	return l, nil
}

// Close stops what [Start] started and waits until it has ended.
func (l *Lab) Close() error {
	l.close()
	if l.server == nil {
		return nil
	}
	err := l.server.Close()
	if served := <-l.served; !errors.Is(served, http.ErrServerClosed) {
		err = errors.Join(err, served)
	}
	l.server = nil
	return err
}

// Rotate makes a new signing key and publishes it beside the old ones.
func (l *Lab) Rotate() error {
	key, err := newKey(l.algorithm)
	if err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.keys = append(l.keys, key)
	return nil
}

// Withdraw stops publishing all keys but the one that signs.
func (l *Lab) Withdraw() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.keys = l.keys[len(l.keys)-1:]
}

// PublicKey returns the public half of the key that signs.
func (l *Lab) PublicKey() crypto.PublicKey { return l.signer().private.Public() }

func (l *Lab) signer() signingKey {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.keys[len(l.keys)-1]
}

func newKey(algorithm string) (signingKey, error) {
	key := signingKey{id: rand.Text()}
	var err error
	switch algorithm {
	case "RS256", "RS384", "RS512", "PS256", "PS384", "PS512":
		key.private, err = rsa.GenerateKey(rand.Reader, 2048)
	case "ES256":
		key.private, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	case "ES384":
		key.private, err = ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	case "ES512":
		key.private, err = ecdsa.GenerateKey(elliptic.P521(), rand.Reader)
	case "EdDSA":
		_, key.private, err = ed25519.GenerateKey(rand.Reader)
	default:
		err = fmt.Errorf("the lab issuer does not sign with %q", algorithm)
	}
	key.algorithm = algorithm
	if err != nil {
		return signingKey{}, fmt.Errorf("making a signing key: %w", err)
	}
	return key, nil
}
