package keys

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/brevet-dev/brevet/broker"
)

// A header is that of every token the broker signs: these members, in this
// order, and no other.
type header struct {
	Algorithm string   `json:"alg"`
	KeyID     string   `json:"kid"`
	Type      string   `json:"typ"`
	Chain     []string `json:"x5c,omitempty"` // RFC 7515, section 4.1.6; archival tokens only
}

const (
	algorithm = "ES256"

	// maxToken bounds what is parsed. A session token takes under 1 KiB.
	maxToken = 16 << 10

	// maxArchival is the same of archival tokens. The statement of a data key with
	// the largest context takes 43 KiB, where JSON writes '<' as six bytes.
	maxArchival = 64 << 10
)

// Sign returns claims, which must encode as a JSON object, as a JWT with header
// typ, signed by the current epoch key: ES256, with the key's RFC 7638
// thumbprint as kid. It returns [broker.ErrUnavailable] when no epoch is
// current.
//
// The token must not live for longer than [Verifiable].
func (e *Epochs) Sign(_ context.Context, typ string, claims any) (string, error) {
	ep, err := e.current(time.Now())
	if err != nil {
		return "", err
	}
	return ep.sign(typ, nil, claims)
}

// SignArchival is Sign for what is to be verified years later: the token
// carries the chain [epoch, root] in its header, and [Archive.Verify] needs
// nothing but the roots. The claims must hold "iat".
func (e *Epochs) SignArchival(_ context.Context, typ string, claims any) (string, error) {
	ep, err := e.current(time.Now())
	if err != nil {
		return "", err
	}
	token, err := ep.sign(typ, ep.cert.chain, claims)
	if err == nil && len(token) > maxArchival {
		return "", fmt.Errorf("signing a token: it has %d bytes, and nobody verifies more than %d", len(token), maxArchival)
	}
	return token, err
}

func (e *Epochs) current(now time.Time) (*epoch, error) {
	s := e.state.Load()
	for _, ep := range s.own {
		// Not if it is known no more: this broker's root has left the fleet.
		if !now.Before(ep.from) && now.Before(ep.until) && s.known[ep.cert.kid] != nil {
			return ep, nil
		}
	}
	return nil, fmt.Errorf("%w: no epoch key is current", broker.ErrUnavailable)
}

func (ep *epoch) sign(typ string, chain []string, claims any) (string, error) {
	head, err := json.Marshal(header{algorithm, ep.cert.kid, typ, chain})
	if err != nil {
		return "", fmt.Errorf("encoding a token's header: %w", err)
	}
	body, err := json.Marshal(claims)
	if err != nil {
		return "", fmt.Errorf("encoding a token's claims: %w", err)
	}
	signed := base64.RawURLEncoding.EncodeToString(head) + "." + base64.RawURLEncoding.EncodeToString(body)
	sig, err := jwt.SigningMethodES256.Sign(signed, ep.key)
	if err != nil {
		return "", fmt.Errorf("signing a token: %w", err)
	}
	return signed + "." + base64.RawURLEncoding.EncodeToString(sig), nil
}

// Verify checks that an epoch key of this broker, or of another under the same
// root and URL, signed token with header typ, and decodes its payload into
// claims, which it leaves alone otherwise. Audience and times are the caller's
// to check.
//
// It returns [ErrToken] for any other token, and [broker.ErrUnavailable] if it
// cannot tell: the key is not known here, and the board cannot be read.
func (e *Epochs) Verify(ctx context.Context, typ, token string, claims any) error {
	p, err := parseToken(typ, token)
	if err != nil {
		return err
	}
	if len(p.header.Chain) > 0 {
		return fmt.Errorf("%w: it brings its own certificates", ErrToken)
	}
	cert, err := e.find(ctx, p.header.KeyID)
	if err != nil {
		return err
	}
	return p.verify(cert, claims)
}

// An Archive verifies archival tokens offline, after any time.
type Archive struct {
	Roots []*x509.Certificate // of the fleet
	URL   string              // of the broker
}

// Verify checks that an epoch key which a root certified for the broker at
// URL signed token with header typ, at a time when that key was valid by the
// token's own "iat", and decodes its payload into claims. It returns
// [ErrToken] if not.
func (a *Archive) Verify(typ, token string, claims any) error {
	p, err := parseTokenWithin(maxArchival, typ, token)
	if err != nil {
		return err
	}
	roots := func() []*x509.Certificate { return a.Roots }
	cert, err := authority{roots, a.URL}.acceptChain(p)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrToken, err)
	}
	return p.verify(cert, claims)
}

func (a authority) acceptChain(p *parsedToken) (*certificate, error) {
	var at struct {
		IssuedAt int64 `json:"iat"`
	}
	if err := json.Unmarshal(p.payload, &at); err != nil {
		return nil, fmt.Errorf("reading iat: %w", err)
	}
	if len(p.header.Chain) != 2 {
		return nil, errors.New("it does not carry its epoch's and its root's certificate")
	}
	der, err := base64.StdEncoding.Strict().DecodeString(p.header.Chain[0])
	if err != nil {
		return nil, fmt.Errorf("reading x5c: %w", err)
	}
	cert, err := a.accept(der, time.Unix(at.IssuedAt, 0))
	if err != nil {
		return nil, err
	}
	if !slices.Equal(p.header.Chain, cert.chain) {
		return nil, errors.New("it carries another root")
	}
	if cert.kid != p.header.KeyID {
		return nil, errors.New("its kid is of another key")
	}
	return cert, nil
}

// A parsedToken is the three parts of a token, before its signature is checked.
type parsedToken struct {
	header             header
	signed             string // header and payload, as they were signed
	payload, signature []byte
}

// parseToken takes a token apart. The broker makes one form of header only, so
// any other is refused by comparing bytes, whatever it contains: another
// algorithm, crit, jwk, a member twice or in capitals.
func parseToken(typ, token string) (*parsedToken, error) {
	return parseTokenWithin(maxToken, typ, token)
}

// parseTokenWithin is parseToken with another bound, in bytes.
func parseTokenWithin(most int, typ, token string) (*parsedToken, error) {
	// Decoders of package base64 skip line breaks.
	if len(token) > most || strings.Count(token, ".") != 2 || strings.ContainsAny(token, "\r\n") {
		return nil, fmt.Errorf("%w: not a compact JWS", ErrToken)
	}
	parts := strings.Split(token, ".")
	p := &parsedToken{signed: parts[0] + "." + parts[1]}
	var head []byte
	for i, to := range []*[]byte{&head, &p.payload, &p.signature} {
		raw, err := base64.RawURLEncoding.Strict().DecodeString(parts[i])
		if err != nil {
			return nil, fmt.Errorf("%w: not base64url", ErrToken)
		}
		*to = raw
	}
	if err := json.Unmarshal(head, &p.header); err != nil {
		return nil, fmt.Errorf("%w: its header is not JSON", ErrToken)
	}
	again, err := json.Marshal(p.header)
	if err != nil || !bytes.Equal(head, again) || p.header.Algorithm != algorithm {
		return nil, fmt.Errorf("%w: its header is not of the form the broker writes", ErrToken)
	}
	if p.header.Type != typ {
		return nil, fmt.Errorf("%w: it is of another type than %s", ErrToken, typ)
	}
	return p, nil
}

func (p *parsedToken) verify(cert *certificate, claims any) error {
	if err := jwt.SigningMethodES256.Verify(p.signed, p.signature, cert.pub); err != nil {
		return fmt.Errorf("%w: %w", ErrToken, err)
	}
	if err := json.Unmarshal(p.payload, claims); err != nil {
		return fmt.Errorf("%w: decoding its claims: %w", ErrToken, err)
	}
	return nil
}
