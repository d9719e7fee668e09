package api

import (
	"crypto/hpke"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
)

// Sealing keeps credentials from whatever ends TLS between job and broker and
// keeps what passes: a proxy, its logs, its memory dumps. The job makes a key
// pair for one exchange and sends the public half as the parameter seal_key; the
// leases of the answer come encrypted to it, in the member sealed_leases.
//
// It is no protection from a proxy that does not only read: that holds the
// subject token, and could use it first.
//
// HPKE, RFC 9180, in base mode, one message: the KEM joins X25519 and
// ML-KEM-768, so that what is recorded today stays closed to quantum computers.
func sealKEM() hpke.KEM   { return hpke.MLKEM768X25519() }
func sealKDF() hpke.KDF   { return hpke.HKDFSHA256() }
func sealAEAD() hpke.AEAD { return hpke.AES256GCM() }

// A SealContext is what a sealed answer is bound to, as the info of HPKE: it
// opens for this request to this broker, with the DPoP key that the proof names,
// and beside this session token only.
type SealContext struct {
	URL          string // of the endpoint
	Proof        string // the DPoP header of the request; "" without one
	SessionToken Secret // of the answer to an exchange; else of the request
}

// What is sealed: one never opens as the other.
const (
	sealedLeases  = "brevet leases v1"
	sealedLease   = "brevet lease v1" // of a renewal
	sealedDataKey = "brevet data key v1"
)

func (c SealContext) info(what string) []byte {
	hash := func(s string) string {
		sum := sha256.Sum256([]byte(s))
		return base64.RawURLEncoding.EncodeToString(sum[:])
	}
	return []byte(what + "\n" + c.URL + "\n" + hash(c.Proof) + "\n" + hash(c.SessionToken.Reveal()))
}

// A SealKey is the key pair of one exchange.
type SealKey struct{ private hpke.PrivateKey }

// NewSealKey makes a key pair.
func NewSealKey() (*SealKey, error) {
	private, err := sealKEM().GenerateKey()
	if err != nil {
		return nil, fmt.Errorf("making a key for sealed answers: %w", err)
	}
	return &SealKey{private}, nil
}

// Public returns the parameter seal_key: the public key in base64url without
// padding.
func (k *SealKey) Public() string {
	return base64.RawURLEncoding.EncodeToString(k.private.PublicKey().Bytes())
}

// A SealRecipient is the other side's view of a [SealKey].
type SealRecipient struct{ public hpke.PublicKey }

// ParseSealKey reads the parameter seal_key.
func ParseSealKey(s string) (*SealRecipient, error) {
	raw, err := base64.RawURLEncoding.Strict().DecodeString(s)
	if err != nil {
		return nil, errors.New("seal_key is not base64url without padding")
	}
	public, err := sealKEM().NewPublicKey(raw)
	if err != nil {
		return nil, errors.New("seal_key is not a public key of X25519 and ML-KEM-768")
	}
	// Some keys can be read and not be used: a point of low order (RFC 7748,
	// section 6.1). It must not come out when there is something to seal.
	if _, err := hpke.Seal(public, sealKDF(), sealAEAD(), nil, nil); err != nil {
		return nil, errors.New("seal_key is not a public key that can be used")
	}
	return &SealRecipient{public}, nil
}

// EncodeSealed is like [TokenResponse.Encode], with the leases sealed to r.
// url and proof are those of the request.
func (t *TokenResponse) EncodeSealed(r *SealRecipient, url, proof string) ([]byte, error) {
	out := t.clear()
	leases, err := json.Marshal(out.Leases)
	if err != nil {
		return nil, err
	}
	out.Leases = nil
	if out.Sealed, err = r.seal(SealContext{URL: url, Proof: proof, SessionToken: t.AccessToken}, sealedLeases, leases); err != nil {
		return nil, fmt.Errorf("sealing the leases: %w", err)
	}
	return json.Marshal(out)
}

// seal returns what is sealed to r, in base64url without padding.
func (r *SealRecipient) seal(c SealContext, what string, plaintext []byte) (string, error) {
	sealed, err := hpke.Seal(r.public, sealKDF(), sealAEAD(), c.info(what), plaintext)
	return base64.RawURLEncoding.EncodeToString(sealed), err
}

// open is the inverse of seal. Its errors go on after "something that is".
func (k *SealKey) open(c SealContext, what, sealed string) ([]byte, error) {
	raw, err := base64.RawURLEncoding.Strict().DecodeString(sealed)
	if err != nil {
		return nil, errors.New("sealed, and not base64url")
	}
	plaintext, err := hpke.Open(k.private, sealKDF(), sealAEAD(), c.info(what), raw)
	if err != nil {
		return nil, errors.New("sealed to another key or request")
	}
	return plaintext, nil
}

// sealedLeaseJSON is the answer to a renewal with a seal_key.
type sealedLeaseJSON struct {
	Sealed string `json:"sealed_lease"`
}

// EncodeSealed is like [Lease.Encode], sealed to r for the request that c
// describes.
func (l *Lease) EncodeSealed(r *SealRecipient, c SealContext) ([]byte, error) {
	plaintext, err := l.Encode()
	if err != nil {
		return nil, err
	}
	var out sealedLeaseJSON
	if out.Sealed, err = r.seal(c, sealedLease, plaintext); err != nil {
		return nil, fmt.Errorf("sealing a lease: %w", err)
	}
	return json.Marshal(out)
}

// DecodeSealedLease is like [DecodeLease] for an answer that is sealed to k. One
// in clear is refused: it is not what was asked for.
func DecodeSealedLease(data []byte, k *SealKey, c SealContext) (*Lease, error) {
	var in sealedLeaseJSON
	if err := json.Unmarshal(data, &in); err != nil || in.Sealed == "" {
		return nil, errors.New("the broker's answer is not a sealed lease")
	}
	plaintext, err := k.open(c, sealedLease, in.Sealed)
	if err != nil {
		return nil, fmt.Errorf("the broker's answer has a lease that is %w", err)
	}
	return DecodeLease(plaintext)
}

// DecodeSealedResponse is like [DecodeTokenResponse] for an answer whose leases
// are sealed to k. One whose leases are not is refused: it is not what was
// asked for.
func DecodeSealedResponse(data []byte, k *SealKey, url, proof string) (*TokenResponse, error) {
	in, err := decodeToken(data)
	if err != nil {
		return nil, err
	}
	if in.Sealed == "" || in.Leases != nil {
		return in.withoutLeases(), errors.New("the broker's answer has leases that are not sealed")
	}
	leases, err := k.open(SealContext{URL: url, Proof: proof, SessionToken: NewSecret(in.AccessToken)}, sealedLeases, in.Sealed)
	if err != nil {
		return in.withoutLeases(), fmt.Errorf("the broker's answer has leases that are %w", err)
	}
	if err := json.Unmarshal(leases, &in.Leases); err != nil {
		return in.withoutLeases(), errors.New("the broker's answer has sealed leases that are not JSON")
	}
	return in.response()
}
