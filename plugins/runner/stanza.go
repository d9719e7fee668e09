package runner

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"maps"
	"strings"

	"github.com/brevet-dev/brevet/broker/api"
)

// A file encrypted with a data key is an age file (age-encryption.org/v1) whose
// header has a stanza of type "brevet":
//
//	-> brevet v1 CREDENTIAL CONTEXT WRAPPED
//	BODY
//
//	CREDENTIAL  name of the credential at the broker: [a-z0-9_-], 64 at most
//	CONTEXT     the canonical JSON of the data key's context, in base64url
//	            without padding; of an empty one "e30"
//	WRAPPED     the data key as the broker wrapped it: a compact JWE
//	BODY        64 bytes: salt (32), then the file key (16) encrypted, tag (16)
//
// The file key is encrypted with AES-256-GCM, under a key that is used once:
//
//	key   = HKDF-SHA-256(secret: the data key, salt: salt, info: "brevet age stanza v1", 32 bytes)
//	nonce = 12 bytes of zero
//	aad   = "brevet v1 CREDENTIAL CONTEXT WRAPPED", as in the header
//
// So nothing of the stanza can be changed without notice, nor taken into the
// header of another file: age authenticates that with the file key.
// testdata/stanza.json has a vector.
const (
	// StanzaType is the type of the stanza, and the name of the plugin.
	StanzaType = "brevet"

	stanzaVersion = "v1"
	stanzaInfo    = "brevet age stanza v1"
	stanzaArgs    = 4
	saltSize      = 32
	fileKeySize   = 16 // age-encryption.org/v1, "File key"
	bodySize      = saltSize + fileKeySize + 16
)

// A KeyRef says which data keys are meant.
type KeyRef struct {
	Credential string // its name in the broker's configuration
	Context    api.Context
}

// Equal reports whether both mean the same. No context is an empty one.
func (r KeyRef) Equal(other KeyRef) bool {
	return r.Credential == other.Credential && maps.Equal(r.Context, other.Context)
}

// Encode returns r as the plugin's recipients and identities hold it:
// "v1 CREDENTIAL JSON".
func (r KeyRef) Encode() []byte {
	return []byte(stanzaVersion + " " + r.Credential + " " + r.Context.Canonical())
}

// ParseKeyRef reads what [KeyRef.Encode] wrote, and nothing else. Its errors
// quote nothing.
func ParseKeyRef(data []byte) (KeyRef, error) {
	version, rest, _ := strings.Cut(string(data), " ")
	if version != stanzaVersion {
		return KeyRef{}, errors.New("of another version of brevet")
	}
	name, text, _ := strings.Cut(rest, " ")
	c, err := api.ParseContext(text)
	if err != nil {
		return KeyRef{}, err
	}
	r := KeyRef{name, c}
	if err := r.Validate(); err != nil {
		return KeyRef{}, err
	}
	if !bytes.Equal(r.Encode(), data) {
		return KeyRef{}, errors.New("its context is not canonical")
	}
	return r, nil
}

// Validate reports whether r could name a data key. Its error quotes nothing.
func (r KeyRef) Validate() error {
	if r.Credential == "" || len(r.Credential) > 64 || strings.Trim(r.Credential, "abcdefghijklmnopqrstuvwxyz0123456789_-") != "" {
		return errors.New("the credential's name is not 1 to 64 of a-z, 0-9, _ and -")
	}
	return r.Context.Validate()
}

// A Stanza holds the key of an age file, encrypted with a data key.
type Stanza struct {
	KeyRef
	Wrapped string // the data key
	sealed  []byte // the body
}

// ParseStanza reads the arguments and the body of a stanza of [StanzaType].
// What it accepts it would write the same. Its errors are Failures, of kind
// Altered, and quote nothing.
func ParseStanza(args []string, body []byte) (*Stanza, error) {
	bad := func(why string) (*Stanza, error) {
		return nil, failf(Altered, "", "the file's stanza of type brevet: %s", why)
	}
	switch {
	case len(args) > 0 && args[0] != stanzaVersion:
		return bad("it is of another version of brevet")
	case len(args) != stanzaArgs:
		return bad("it has too few or too many arguments")
	case len(body) != bodySize:
		return bad("its body is not of 64 bytes")
	case !isWrapped(args[3]):
		return bad("it has no wrapped data key")
	}
	text, err := base64.RawURLEncoding.Strict().DecodeString(args[2])
	if err != nil {
		return bad("its context is not base64url")
	}
	c, err := api.ParseContext(string(text))
	if err != nil {
		return bad(err.Error())
	}
	s := &Stanza{KeyRef{args[1], c}, args[3], bytes.Clone(body)}
	if err := s.Validate(); err != nil {
		return bad(err.Error())
	}
	if s.Args()[2] != args[2] {
		return bad("its context is not canonical")
	}
	return s, nil
}

// isWrapped reports whether s could be a wrapped data key: five parts of
// base64url (RFC 7516, section 7.1).
func isWrapped(s string) bool {
	const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_."
	return len(s) <= api.MaxWrapped && strings.Count(s, ".") == 4 && strings.Trim(s, alphabet) == ""
}

// Args are the stanza's arguments.
func (s *Stanza) Args() []string {
	return []string{stanzaVersion, s.Credential, base64.RawURLEncoding.EncodeToString([]byte(s.Context.Canonical())), s.Wrapped}
}

// Body is the stanza's body.
func (s *Stanza) Body() []byte { return bytes.Clone(s.sealed) }

func newSalt() []byte {
	salt := make([]byte, saltSize)
	rand.Read(salt) // never fails: crypto/rand.Read, Go 1.24
	return salt
}

// sealFileKey makes a stanza. salt is never used twice with one data key.
func sealFileKey(ref KeyRef, wrapped string, dataKey, salt, fileKey []byte) (*Stanza, error) {
	if len(fileKey) != fileKeySize {
		return nil, errors.New("age's file key is not of 16 bytes")
	}
	if err := ref.Validate(); err != nil {
		return nil, err
	}
	s := &Stanza{ref, wrapped, nil}
	aead, err := stanzaAEAD(dataKey, salt)
	if err != nil {
		return nil, err
	}
	s.sealed = aead.Seal(bytes.Clone(salt), make([]byte, aead.NonceSize()), fileKey, s.aad())
	return s, nil
}

// open returns the file key. Its error is a Failure of kind Altered.
func (s *Stanza) open(dataKey []byte) ([]byte, error) {
	aead, err := stanzaAEAD(dataKey, s.sealed[:saltSize])
	if err != nil {
		return nil, err
	}
	fileKey, err := aead.Open(nil, make([]byte, aead.NonceSize()), s.sealed[saltSize:], s.aad())
	if err != nil {
		return nil, failf(Altered, "", "the file's stanza of type brevet was altered, or belongs to another data key")
	}
	return fileKey, nil
}

func (s *Stanza) aad() []byte {
	return []byte(StanzaType + " " + strings.Join(s.Args(), " "))
}

func stanzaAEAD(dataKey, salt []byte) (cipher.AEAD, error) {
	key, err := hkdf.Key(sha256.New, dataKey, salt, stanzaInfo, api.DataKeySize)
	if err != nil {
		return nil, fmt.Errorf("deriving a key: %w", err)
	}
	defer clear(key)
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, fmt.Errorf("preparing a key: %w", err)
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		return nil, fmt.Errorf("preparing a key: %w", err)
	}
	return aead, nil
}
