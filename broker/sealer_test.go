package broker_test

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"testing"
)

// aeadSealer seals handles with AES-256-GCM under a key of the test.
type aeadSealer struct{ cipher.AEAD }

func testSealer(t *testing.T) aeadSealer {
	t.Helper()
	key := make([]byte, 32)
	rand.Read(key)
	block, err := aes.NewCipher(key)
	if err != nil {
		t.Fatal(err)
	}
	aead, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		t.Fatal(err)
	}
	return aeadSealer{aead}
}

func (s aeadSealer) Seal(_ context.Context, handle, name string) (string, error) {
	return string(s.AEAD.Seal(nil, nil, []byte(handle), []byte(name))), nil
}

func (s aeadSealer) Open(_ context.Context, sealed, name string) (string, error) {
	out, err := s.AEAD.Open(nil, nil, []byte(sealed), []byte(name))
	return string(out), err
}

func (aeadSealer) KeyOf(string) (string, bool, error) { return "test", true, nil }
