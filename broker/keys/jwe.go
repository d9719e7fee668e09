package keys

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strings"

	josecipher "github.com/go-jose/go-jose/v4/cipher"

	"github.com/brevet-dev/brevet/broker"
)

// What is encrypted under a KEK is a JWE in compact form (RFC 7516, section
// 7.1) with alg A256KW and enc A256GCM: a fresh content key for each, wrapped by
// the KEK with AES Key Wrap (RFC 3394). Key wrap takes no nonce, so a KEK has no
// limit of uses that a busy broker could reach; with AES-GCM under the KEK
// itself that would be 2^32 (NIST SP 800-38D, section 8.3), three days at
// 15 000 a second.
//
// Whatever a JWE is bound to stands in its header, which is authenticated.
const (
	jweAlgorithm  = "A256KW"
	jweEncryption = "A256GCM"
	typeDataKey   = "brevet-data-key+jwe"
	typeHandle    = "brevet-handle+jwe"

	jwePartCount = 5
	wrappedSize  = kekSize + 8 // RFC 3394, section 2.2.1

	// maxJWE bounds what is parsed. A wrapped data key takes about 600 bytes, the
	// handle of a lease less than 1 KiB.
	maxJWE = 16 << 10
)

// A jweHeader is that of every JWE the broker makes: these members, in this
// order, and no other.
type jweHeader struct {
	Algorithm  string `json:"alg"`
	Encryption string `json:"enc"`
	KeyID      string `json:"kid"` // of the KEK
	Type       string `json:"typ"`
	Bound      string `json:"bound"` // SHA-256, base64url: of the canonical context of a data key, or of the name of a handle

	// Of data keys only.
	DataKey    string `json:"dek,omitempty"`
	Credential string `json:"credential,omitempty"`
	Lease      string `json:"lease,omitempty"` // under which the key was made
	Issued     int64  `json:"iat,omitempty"`   // seconds since 1970, as in RFC 7519
	Expires    int64  `json:"exp,omitempty"`
	Shred      bool   `json:"shred,omitempty"` // what is inside is only half of the key
}

func boundTo(s string) string {
	sum := sha256.Sum256([]byte(s))
	return base64.RawURLEncoding.EncodeToString(sum[:])
}

// seal encrypts plaintext under k. It completes h.
func (k *kek) seal(h jweHeader, plaintext []byte) (string, error) {
	h.Algorithm, h.Encryption, h.KeyID = jweAlgorithm, jweEncryption, k.id
	head, err := json.Marshal(h)
	if err != nil {
		return "", fmt.Errorf("encoding the header of a JWE: %w", err)
	}
	var content [kekSize]byte
	rand.Read(content[:]) // never fails: crypto/rand.Read, Go 1.24
	defer clear(content[:])
	wrapped, err := josecipher.KeyWrap(k.block, content[:])
	if err != nil {
		return "", fmt.Errorf("wrapping under KEK %s: %w", k.id, err)
	}
	aead, err := newGCM(content[:])
	if err != nil {
		return "", err
	}
	protected := base64.RawURLEncoding.EncodeToString(head)
	iv := make([]byte, aead.NonceSize())
	rand.Read(iv)
	sealed := aead.Seal(nil, iv, plaintext, []byte(protected))
	tag := len(sealed) - aead.Overhead()
	parts := [jwePartCount - 1][]byte{wrapped, iv, sealed[:tag], sealed[tag:]}
	out := protected
	for _, part := range parts {
		out += "." + base64.RawURLEncoding.EncodeToString(part)
	}
	return out, nil
}

func newGCM(key []byte) (cipher.AEAD, error) {
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, fmt.Errorf("preparing a content key: %w", err)
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		return nil, fmt.Errorf("preparing a content key: %w", err)
	}
	return aead, nil
}

// A parsedJWE is a JWE before anything of it is believed.
type parsedJWE struct {
	header                      jweHeader
	protected                   string
	wrapped, iv, encrypted, tag []byte
}

// parseJWE takes a JWE of type typ apart. The broker makes one form of header
// only, so any other is refused by comparing bytes.
func parseJWE(typ, s string) (*parsedJWE, error) {
	// Decoders of package base64 skip line breaks.
	if len(s) > maxJWE || strings.Count(s, ".") != jwePartCount-1 || strings.ContainsAny(s, "\r\n") {
		return nil, fmt.Errorf("%w: not a compact JWE", broker.ErrWrapped)
	}
	parts := strings.Split(s, ".")
	p := &parsedJWE{protected: parts[0]}
	var head []byte
	for i, to := range []*[]byte{&head, &p.wrapped, &p.iv, &p.encrypted, &p.tag} {
		raw, err := base64.RawURLEncoding.Strict().DecodeString(parts[i])
		if err != nil {
			return nil, fmt.Errorf("%w: not base64url", broker.ErrWrapped)
		}
		*to = raw
	}
	if err := json.Unmarshal(head, &p.header); err != nil {
		return nil, fmt.Errorf("%w: its header is not JSON", broker.ErrWrapped)
	}
	again, err := json.Marshal(p.header)
	switch {
	case err != nil, !bytes.Equal(head, again), p.header.Algorithm != jweAlgorithm, p.header.Encryption != jweEncryption:
		return nil, fmt.Errorf("%w: its header is not of the form the broker writes", broker.ErrWrapped)
	case p.header.Type != typ:
		return nil, fmt.Errorf("%w: it is of another type than %s", broker.ErrWrapped, typ)
	case len(p.wrapped) != wrappedSize:
		return nil, fmt.Errorf("%w: its content key has another size", broker.ErrWrapped)
	}
	return p, nil
}

// open decrypts p, of which k must be the KEK that its header names.
func (k *kek) open(p *parsedJWE) ([]byte, error) {
	content, err := josecipher.KeyUnwrap(k.block, p.wrapped)
	if err != nil {
		return nil, fmt.Errorf("%w: it was changed, or is of another KEK %s", broker.ErrWrapped, k.id)
	}
	defer clear(content)
	aead, err := newGCM(content)
	if err != nil {
		return nil, err
	}
	if len(p.iv) != aead.NonceSize() || len(p.tag) != aead.Overhead() {
		return nil, fmt.Errorf("%w: its iv or tag has another size", broker.ErrWrapped)
	}
	out, err := aead.Open(nil, p.iv, append(p.encrypted[:len(p.encrypted):len(p.encrypted)], p.tag...), []byte(p.protected))
	if err != nil {
		return nil, fmt.Errorf("%w: it was changed", broker.ErrWrapped)
	}
	return out, nil
}
