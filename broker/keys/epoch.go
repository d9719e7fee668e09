package keys

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"time"

	"github.com/brevet-dev/brevet/broker/keys/trust"
)

// An epoch is a key of this process, and the time in which it signs.
type epoch struct {
	key         *ecdsa.PrivateKey
	cert        *certificate
	from, until time.Time
}

// A certificate is that of an epoch, of this broker or another, after every
// check of [authority.accept].
type certificate struct {
	kid   string // RFC 7638 thumbprint of the key
	chain []string
	jwk   []byte // with both of them
	pub   *ecdsa.PublicKey
	x509  *x509.Certificate
	root  *x509.Certificate // that signed it
}

// valid reports whether the certificate holds at the time now.
func (c *certificate) valid(now time.Time) bool {
	return !now.Before(c.x509.NotBefore) && !now.After(c.x509.NotAfter)
}

// An authority decides which certificates are epochs': those that one of the
// roots signed for the broker at url.
type authority struct {
	roots func() []*x509.Certificate
	url   string
}

// issue makes an epoch of root that signs from then on. now is when its
// certificate begins, less the skew.
func (a authority) issue(root Root, now, from time.Time) (*epoch, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("making an epoch key: %w", err)
	}
	uri, err := url.Parse(a.url)
	if err != nil {
		return nil, fmt.Errorf("parsing the broker's url: %w", err)
	}
	until := from.Add(Signs)
	made, err := trust.NewEpoch(root.Certificate(), root.Signer(), &key.PublicKey, uri, now, until.Add(Verifiable+skew))
	if err != nil {
		return nil, fmt.Errorf("certifying an epoch key by the %s root: %w", root.Kind(), err)
	}
	cert, err := a.accept(made.Raw, now) // as every other broker will
	if err != nil {
		return nil, err
	}
	return &epoch{key, cert, from, until}, nil
}

// accept parses a certificate that anyone may have written and returns it if it
// is an epoch's at the time now.
func (a authority) accept(der []byte, now time.Time) (*certificate, error) {
	cert, root, err := trust.ParseEpoch(der, a.roots(), a.url, now, certified)
	if err != nil {
		return nil, err
	}
	return newCertificate(cert, root)
}

func newCertificate(cert, root *x509.Certificate) (*certificate, error) {
	pub, ok := cert.PublicKey.(*ecdsa.PublicKey)
	if !ok {
		return nil, errors.New("not an ECDSA key")
	}
	point, err := pub.Bytes() // 0x04, x, y: 32 bytes each
	if err != nil {
		return nil, fmt.Errorf("encoding an epoch key: %w", err)
	}
	chain := []string{ // RFC 7517, section 4.7: base64 with padding, unlike all else
		base64.StdEncoding.EncodeToString(cert.Raw),
		base64.StdEncoding.EncodeToString(root.Raw),
	}
	k := newJWK(point[1:33], point[33:], chain)
	encoded, err := json.Marshal(k)
	if err != nil {
		return nil, fmt.Errorf("encoding an epoch key: %w", err)
	}
	return &certificate{k.KeyID, chain, encoded, pub, cert, root}, nil
}
