package keys_test

import (
	"bufio"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"maps"
	"math/big"
	"net/url"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"

	"github.com/brevet-dev/brevet/broker/keys"
)

// boards are what the contract below must hold for.
func boards(t *testing.T) map[string]redis.UniversalClient {
	return map[string]redis.UniversalClient{
		"miniredis":    client(t, "tcp", miniredis.RunT(t).Addr()),
		"redis-server": client(t, "unix", redisServer(t)),
	}
}

func client(t *testing.T, network, addr string) redis.UniversalClient {
	c := redis.NewClient(&redis.Options{Network: network, Addr: addr})
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	return c
}

// redisServer starts a redis-server that ends with the test, and returns its
// socket.
func redisServer(t *testing.T) string {
	t.Helper()
	path, err := exec.LookPath("redis-server")
	if err != nil {
		t.Fatalf("%v; run: apt-get install redis-server", err)
	}
	dir := t.TempDir()
	socket := filepath.Join(dir, "redis.sock")
	cmd := exec.Command(path, "--port", "0", "--unixsocket", socket, "--dir", dir, "--save", "", "--appendonly", "no")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(out)
	t.Cleanup(func() {
		if err := cmd.Process.Kill(); err != nil {
			t.Error(err)
		}
		for lines.Scan() { // to its end
		}
		if err := cmd.Wait(); err == nil {
			t.Error("redis-server ended by itself")
		}
	})
	for lines.Scan() {
		if strings.Contains(lines.Text(), "eady to accept connections") {
			return socket
		}
	}
	t.Fatal("redis-server ended at once")
	return ""
}

func TestRedisBoard(t *testing.T) {
	for name, c := range boards(t) {
		t.Run(name, func(t *testing.T) {
			board := keys.NewRedisBoard(c)
			publish := func(kid, cert string, d time.Duration) {
				t.Helper()
				if err := board.Publish(t.Context(), kid, []byte(cert), time.Now().Add(d)); err != nil {
					t.Fatal(err)
				}
			}
			want := func(when string, want ...string) {
				t.Helper()
				all, err := board.All(t.Context())
				if got := slices.Sorted(maps.Keys(all)); err != nil || !slices.Equal(got, want) {
					t.Errorf("%s: All = %v, %v, want %v", when, got, err, want)
				}
			}
			want("at first")
			publish("a", "binary \x00\xff\n", time.Hour)
			publish("b", "bytes", time.Minute)
			publish("a", "binary \x00\xff\n", time.Hour)
			want("after Publish", "a", "b")
			publish("late", "x", -time.Second)
			want("with one that has ended", "a", "b")
			publish("huge", strings.Repeat("x", 1<<20), time.Hour)
			want("with a huge one", "a", "b")
			if err := c.ZAdd(t.Context(), "brevet:epochs", redis.Z{Score: 1e18, Member: "nospace"}).Err(); err != nil {
				t.Fatal(err)
			}
			want("with one of another form", "a", "b")
			for i := range 2 * keys.MaxBoard {
				publish(big.NewInt(int64(i)).String(), "x", 2*time.Hour)
			}
			if all, err := board.All(t.Context()); err != nil || len(all) > keys.MaxBoard {
				t.Errorf("All of a flooded board: %d, %v", len(all), err)
			}
			if n := c.ZScore(t.Context(), "brevet:epochs", "late x"); n.Err() != redis.Nil {
				t.Errorf("what had ended is still stored: %v", n)
			}
		})
	}
}

func TestRedisFleet(t *testing.T) {
	for name, c := range boards(t) {
		t.Run(name, func(t *testing.T) {
			root := newRoot(t)
			one := start(t, root, keys.NewRedisBoard(c))
			two := start(t, root, keys.NewRedisBoard(c))
			for _, err := range []error{
				verify(two, sign(t, one)),
				newRelying(t, two.JWKS()).verify(sign(t, one)),
				newRelying(t, two.JWKS()).verify(sign(t, two)),
			} {
				if err != nil {
					t.Error(err)
				}
			}
			if s := two.Status(); s.Keys != 4 || s.Refused != 0 || s.BoardErr != nil {
				t.Errorf("Status of the second: %+v, want 4 keys", s)
			}
		})
	}
}

func TestRedisAway(t *testing.T) {
	server := miniredis.RunT(t)
	board := keys.NewRedisBoard(redis.NewClient(&redis.Options{Addr: server.Addr(), MaxRetries: -1}))
	server.Close()
	if _, err := board.All(t.Context()); err == nil {
		t.Error("All without Redis succeeded")
	}
	if err := board.Publish(t.Context(), "a", nil, time.Now()); err == nil {
		t.Error("Publish without Redis succeeded")
	}
}

// A forger issues certificates as the real root, or one like it, would not.
type forger struct {
	t    *testing.T
	root *keys.Software
	key  *ecdsa.PrivateKey
}

func newForger(t *testing.T, root *keys.Software) forger {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return forger{t, root, key}
}

// issue signs the certificate of a right epoch after change, for pub.
func (f forger) issue(pub crypto.PublicKey, change func(*x509.Certificate)) []byte {
	f.t.Helper()
	u, err := url.Parse(brokerURL)
	if err != nil {
		f.t.Fatal(err)
	}
	c := &x509.Certificate{
		Subject: pkix.Name{CommonName: "brevet epoch"}, URIs: []*url.URL{u},
		NotBefore: time.Now().Add(-5 * time.Minute), NotAfter: time.Now().Add(18 * time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, BasicConstraintsValid: true,
	}
	change(c)
	der, err := x509.CreateCertificate(rand.Reader, c, f.root.Certificate(), pub, f.root.Signer())
	if err != nil {
		f.t.Fatal(err)
	}
	return der
}

// thumbprint is RFC 7638's, written again.
func thumbprint(t *testing.T, pub *ecdsa.PublicKey) string {
	t.Helper()
	point, err := pub.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	half := (len(point) - 1) / 2
	x, y := base64.RawURLEncoding.EncodeToString(point[1:1+half]), base64.RawURLEncoding.EncodeToString(point[1+half:])
	sum := sha256.Sum256([]byte(`{"crv":"P-256","kty":"EC","x":"` + x + `","y":"` + y + `"}`))
	return base64.RawURLEncoding.EncodeToString(sum[:])
}

// TestForgedCertificates: of all that can be put on a board only the right
// certificate becomes a key, and the rest hurts nobody.
func TestForgedCertificates(t *testing.T) {
	root := newRoot(t)
	f, stranger := newForger(t, root), newForger(t, newRoot(t))
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	as := func(change func(*x509.Certificate)) []byte { return f.issue(f.key.Public(), change) }
	right := as(func(*x509.Certificate) {})
	other, err := url.Parse("https://other.example.com")
	if err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name string
		cert []byte
		keys int
	}{
		{"the right one", right, 3},
		{"nothing", nil, 2},
		{"garbage", []byte("garbage"), 2},
		{"cut", right[:len(right)-1], 2},
		{"something after it", append(slices.Clone(right), 0), 2},
		{"signature changed", append(slices.Clone(right[:len(right)-1]), right[len(right)-1]^1), 2},
		{"too long", as(func(c *x509.Certificate) { c.Subject.Organization = []string{strings.Repeat("x", 8<<10)} }), 2},
		{"the root's own", root.Certificate().Raw, 2},
		{"of another root", stranger.issue(f.key.Public(), func(*x509.Certificate) {}), 2},
		{"a CA", as(func(c *x509.Certificate) { c.IsCA, c.MaxPathLenZero = true, true }), 2},
		{"may certify", as(func(c *x509.Certificate) { c.KeyUsage |= x509.KeyUsageCertSign }), 2},
		{"no key usage", as(func(c *x509.Certificate) { c.KeyUsage = 0 }), 2},
		{"extended key usage", as(func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} }), 2},
		{"a host name, too", as(func(c *x509.Certificate) { c.DNSNames = []string{"broker.example.com"} }), 2},
		{"another url", as(func(c *x509.Certificate) { c.URIs = []*url.URL{other} }), 2},
		{"two urls", as(func(c *x509.Certificate) { c.URIs = append(c.URIs, other) }), 2},
		{"no url", as(func(c *x509.Certificate) { c.URIs = nil }), 2},
		{"another subject", as(func(c *x509.Certificate) { c.Subject.CommonName = "brevet lease" }), 2},
		{"valid for too long", as(func(c *x509.Certificate) { c.NotAfter = time.Now().AddDate(1, 0, 0) }), 2},
		{"ended", as(func(c *x509.Certificate) {
			c.NotBefore, c.NotAfter = time.Now().Add(-2*time.Hour), time.Now().Add(-time.Hour)
		}), 2},
		{"not begun", as(func(c *x509.Certificate) { c.NotBefore = time.Now().Add(time.Hour) }), 2},
		{"critical extension", as(func(c *x509.Certificate) {
			c.ExtraExtensions = []pkix.Extension{{Id: []int{1, 2, 3}, Critical: true, Value: []byte{5, 0}}}
		}), 2},
		{"P-384", f.issue(p384.Public(), func(*x509.Certificate) {}), 2},
		{"RSA", f.issue(rsaKey.Public(), func(*x509.Certificate) {}), 2},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			board := &memory{certs: map[string][]byte{thumbprint(t, &f.key.PublicKey): tt.cert}}
			s := start(t, root, board).Status()
			if s.Keys != tt.keys || s.Refused != 3-tt.keys || s.BoardErr != nil {
				t.Errorf("%d keys, %d refused, %v, want %d keys", s.Keys, s.Refused, s.BoardErr, tt.keys)
			}
		})
	}
	board := &memory{certs: map[string][]byte{"another-kid": right}}
	if s := start(t, root, board).Status(); s.Keys != 2 || s.Refused != 1 {
		t.Errorf("under another kid: %+v", s)
	}
}

// TestSecondCertificate: one that names the key of a known epoch again does not
// replace the first.
func TestSecondCertificate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		root := newRoot(t)
		f := newForger(t, root)
		kid := thumbprint(t, &f.key.PublicKey)
		right := func(*x509.Certificate) {}
		board := &memory{certs: map[string][]byte{kid: f.issue(f.key.Public(), right)}}
		e := run(t, root, board)
		before := newRelying(t, e.JWKS())
		if err := board.Publish(t.Context(), kid, f.issue(f.key.Public(), right), time.Now()); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		if after := newRelying(t, e.JWKS()); !after.keys[kid].Equal(before.keys[kid]) || e.Status().Refused != 1 {
			t.Error("the certificate was replaced")
		}
	})
}

func FuzzBoard(f *testing.F) {
	root := newRoot(f)
	published := &memory{}
	start(f, root, published)
	for kid, cert := range published.certs {
		f.Add(kid, cert)
	}
	f.Add("", []byte("garbage"))
	f.Fuzz(func(t *testing.T, kid string, cert []byte) {
		board := &memory{certs: map[string][]byte{kid: cert}}
		genuine := len(cert) > 0 && string(published.certs[kid]) == string(cert)
		if s := start(t, root, board).Status(); (s.Keys == 3) != genuine {
			t.Errorf("%d keys with %q → %x on the board", s.Keys, kid, cert)
		}
	})
}
