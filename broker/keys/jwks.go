package keys

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/base64"
	"maps"
	"slices"
	"time"
)

// maxJWKS bounds the keys in the JWKS. AWS IAM takes at most 100 EC keys from
// an OIDC provider and refuses all tokens beyond ("Create an OpenID Connect
// identity provider in IAM", prerequisites). With more, the latest of each root
// are in it: a broker that starts again and again fills it with its own only.
const maxJWKS = 100

// A jwk is a public key as RFC 7517 and RFC 7518, section 6.2 write it.
type jwk struct {
	Type      string   `json:"kty"`
	Curve     string   `json:"crv"`
	X         string   `json:"x"`
	Y         string   `json:"y"`
	Use       string   `json:"use"`
	Algorithm string   `json:"alg"`
	KeyID     string   `json:"kid"`
	Chain     []string `json:"x5c"`
}

func newJWK(x, y []byte, chain []string) jwk {
	k := jwk{
		Type: "EC", Curve: "P-256", Use: "sig", Algorithm: algorithm, Chain: chain,
		X: base64.RawURLEncoding.EncodeToString(x), Y: base64.RawURLEncoding.EncodeToString(y),
	}
	// RFC 7638, section 3.2: the required members, in this order, without spaces.
	sum := sha256.Sum256([]byte(`{"crv":"P-256","kty":"EC","x":"` + k.X + `","y":"` + k.Y + `"}`))
	k.KeyID = base64.RawURLEncoding.EncodeToString(sum[:])
	return k
}

// JWKS returns the JSON Web Key Set (RFC 7517, section 5) with the previous,
// current and next epoch keys of this broker and all others on the board, each
// with the chain [epoch, root]. The caller must not change it.
func (e *Epochs) JWKS() []byte {
	now := time.Now()
	if s := e.state.Load(); now.Before(s.ends) {
		return s.jwks
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	s := e.state.Load()
	if !now.Before(s.ends) {
		s = newState(s.own, s.known, now)
		e.state.Store(s)
	}
	return s.jwks
}

// latestOfEach returns known in an order that gives each root its turn: first the
// one of each that ends last, then the next of each, and so on.
func latestOfEach(known map[string]*certificate) []*certificate {
	byEnd := slices.SortedFunc(maps.Values(known), func(a, b *certificate) int {
		return cmp.Or(b.x509.NotAfter.Compare(a.x509.NotAfter), cmp.Compare(a.kid, b.kid))
	})
	turn, seen := make(map[*certificate]int, len(byEnd)), make(map[string]int)
	for _, c := range byEnd {
		turn[c] = seen[string(c.root.Raw)]
		seen[string(c.root.Raw)]++
	}
	slices.SortStableFunc(byEnd, func(a, b *certificate) int { return cmp.Compare(turn[a], turn[b]) })
	return byEnd
}

// newState returns a state without the certificates that have ended.
func newState(own []*epoch, known map[string]*certificate, now time.Time) *state {
	s := &state{own: own, known: maps.Clone(known), ends: now.Add(certified)}
	maps.DeleteFunc(s.known, func(_ string, c *certificate) bool { return now.After(c.x509.NotAfter) })
	latest := latestOfEach(s.known)
	for _, c := range latest {
		if c.x509.NotAfter.Before(s.ends) {
			s.ends = c.x509.NotAfter
		}
	}
	keys := make([][]byte, 0, maxJWKS)
	for _, c := range latest[:min(len(latest), maxJWKS)] {
		keys = append(keys, c.jwk)
	}
	s.jwks = slices.Concat([]byte(`{"keys":[`), bytes.Join(keys, []byte(",")), []byte("]}"))
	return s
}
