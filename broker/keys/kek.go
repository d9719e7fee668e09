package keys

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/ecdh"
	"crypto/hpke"
	"crypto/rand"
	"encoding/base32"
	"errors"
	"fmt"
	"io"
	"strconv"
)

// A material carries the bytes of a key. Like [api.Secret] it cannot be printed
// or marshalled by accident; unlike it, its bytes can be wiped.
//
// What wiping cannot reach: copies that the garbage collector or the stack made
// while it moved them, expanded keys inside crypto/aes, and pages that were
// swapped out. Who reads the memory of the process reads keys.
type material struct{ reveal func() []byte }

func newMaterial(key []byte) material { return material{func() []byte { return key }} }

func (m material) wipe() {
	if m.reveal != nil {
		clear(m.reveal())
	}
}

// Format implements [fmt.Formatter] for every verb.
func (material) Format(f fmt.State, _ rune) { io.WriteString(f, "[secret]") }

// MarshalText implements [encoding.TextMarshaler], which encoding/json and
// log/slog use.
func (material) MarshalText() ([]byte, error) { return []byte("[secret]"), nil }

// A kek is one version of the key that wraps data keys and seals handles.
type kek struct {
	id    string // "3-mfrggzdf": version in the ring, and 40 random bits
	key   material
	block cipher.Block // AES-256 with key
}

// kekSize is that of AES-256, in bytes.
const kekSize = 32

// newKEK makes the key that version n of the ring adds. The random part of its
// id tells it from a version n of a ring that was lost.
func newKEK(n uint64) (*kek, error) {
	var tail [5]byte
	key := make([]byte, kekSize)
	rand.Read(tail[:]) // never fails: crypto/rand.Read, Go 1.24
	rand.Read(key)
	return makeKEK(strconv.FormatUint(n, 10)+"-"+kekEncoding.EncodeToString(tail[:]), key)
}

var kekEncoding = base32.NewEncoding("abcdefghijklmnopqrstuvwxyz234567").WithPadding(base32.NoPadding)

func makeKEK(id string, key []byte) (*kek, error) {
	if len(key) != kekSize {
		return nil, errors.New("a KEK has 32 bytes")
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, fmt.Errorf("preparing KEK %s: %w", id, err)
	}
	return &kek{id, newMaterial(key), block}, nil
}

// HPKE, RFC 9180, in base mode: who wrapped a KEK is told by the signature of
// the ring around it. DHKEM with P-256, because that is what TPMs and HSMs can
// do.
func ringKDF() hpke.KDF   { return hpke.HKDFSHA256() }
func ringAEAD() hpke.AEAD { return hpke.AES256GCM() }

// wrapInfo binds a wrapped KEK to its place: the fleet, the version, and the
// broker it is for.
func wrapInfo(url, id, member string) []byte {
	return []byte("brevet kek v1\n" + url + "\n" + id + "\n" + member)
}

// wrapFor returns the key encrypted to the agreement key of a member: 113
// bytes, the ephemeral public key and the ciphertext.
func (k *kek) wrapFor(to *ecdh.PublicKey, url, member string) ([]byte, error) {
	public, err := hpke.NewDHKEMPublicKey(to)
	if err != nil {
		return nil, fmt.Errorf("wrapping KEK %s: %w", k.id, err)
	}
	out, err := hpke.Seal(public, ringKDF(), ringAEAD(), wrapInfo(url, k.id, member), k.key.reveal())
	if err != nil {
		return nil, fmt.Errorf("wrapping KEK %s: %w", k.id, err)
	}
	return out, nil
}

// unwrapKEK opens what wrapFor made, with one operation of the chip.
func unwrapKEK(id string, wrapped []byte, with ecdh.KeyExchanger, url, member string) (*kek, error) {
	private, err := hpke.NewDHKEMPrivateKey(with)
	if err != nil {
		return nil, fmt.Errorf("unwrapping KEK %s: %w", id, err)
	}
	key, err := hpke.Open(private, ringKDF(), ringAEAD(), wrapInfo(url, id, member), wrapped)
	if err != nil {
		return nil, fmt.Errorf("unwrapping KEK %s: %w", id, err)
	}
	return makeKEK(id, key)
}
