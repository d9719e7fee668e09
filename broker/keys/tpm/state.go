package tpm

import (
	"bytes"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"

	"github.com/google/go-tpm/tpm2"

	"github.com/brevet-dev/brevet/broker/keys"
	"github.com/brevet-dev/brevet/broker/keys/trust"
)

const (
	rootFile = "root.json"
	authFile = "auth"

	// maxState bounds what is read; a state takes about 6 KiB with the
	// certificates of an endorsement key.
	maxState = 64 << 10

	version = 1
)

// A stored is what the state folder keeps in root.json. Nothing in it is secret:
// the private parts are encrypted by the TPM. Byte strings are base64.
type stored struct {
	Version   int      `json:"version"`
	Storage   []byte   `json:"storage"` // TPMT_PUBLIC of the storage root key
	Root      blob     `json:"root"`
	Agreement blob     `json:"agreement"`
	AK        blob     `json:"ak"`
	EK        []byte   `json:"ek"`       // TPMT_PUBLIC
	EKChain   [][]byte `json:"ek_chain"` // DER: its certificate first; empty if it has none
	PCRs      []pcr    `json:"pcrs"`     // in order
	Counter   []byte   `json:"counter"`  // TPMS_NV_PUBLIC
}

// A blob is a key under the storage root key.
type blob struct {
	Public      []byte `json:"public"`                // TPMT_PUBLIC
	Private     []byte `json:"private"`               // TPM2B_PRIVATE, without its size
	Certificate []byte `json:"certificate,omitempty"` // DER
}

// identity is a stored, read and checked.
type identity struct {
	storage, root, agreement, ak *key
	ek                           *key
	ekChain                      [][]byte
	rootCert, agreementCert      *x509.Certificate
	pcrs                         []pcr
	counter                      *tpm2.TPMSNVPublic
}

func (k *key) blob(cert *x509.Certificate) blob {
	b := blob{Public: tpm2.Marshal(k.public), Private: k.private}
	if cert != nil {
		b.Certificate = cert.Raw
	}
	return b
}

func (id *identity) encode() ([]byte, error) {
	return json.MarshalIndent(stored{
		Version:   version,
		Storage:   tpm2.Marshal(id.storage.public),
		Root:      id.root.blob(id.rootCert),
		Agreement: id.agreement.blob(id.agreementCert),
		AK:        id.ak.blob(nil),
		EK:        tpm2.Marshal(id.ek.public),
		EKChain:   id.ekChain,
		PCRs:      id.pcrs,
		Counter:   tpm2.Marshal(*id.counter),
	}, "", "\t")
}

// parseIdentity reads what encode wrote, and refuses keys with other attributes
// than Create gives them.
func parseIdentity(data []byte) (*identity, error) {
	var s stored
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(&s); err != nil {
		return nil, err
	}
	if d.More() {
		return nil, errors.New("there is something after its end")
	}
	if s.Version != version {
		return nil, fmt.Errorf("version %d, want %d: another version of brevetd wrote it", s.Version, version)
	}
	id := &identity{ekChain: s.EKChain, pcrs: s.PCRs}
	if err := errors.Join(id.parseKeys(s), id.parseCounter(s.Counter)); err != nil {
		return nil, err
	}
	return id, id.parseCertificates(s.Root.Certificate, s.Agreement.Certificate)
}

func (id *identity) parseKeys(s stored) error {
	policy, err := policyOf(s.PCRs)
	if err != nil {
		return err
	}
	for _, k := range []struct {
		to       **key
		from     blob
		template tpm2.TPMTPublic
	}{
		{&id.storage, blob{Public: s.Storage}, storageTemplate()},
		{&id.root, s.Root, signTemplate(policy)},
		{&id.agreement, s.Agreement, agreeTemplate(policy)},
		{&id.ak, s.AK, attestTemplate()},
	} {
		parsed, err := parseKey(k.from.Public, k.template)
		if err != nil {
			return err
		}
		parsed.private = k.from.Private
		*k.to = parsed
	}
	id.ek, err = parseEK(s.EK)
	return err
}

// parseCertificates checks that each certificate is of its key.
func (id *identity) parseCertificates(root, agreement []byte) error {
	var err error
	if id.rootCert, err = trust.ParseRoot(root); err != nil {
		return err
	}
	// Not now but when it began: whether the root has ended is for its users.
	agreementCert, agreed, err := trust.ParseAgreement(agreement, id.rootCert, id.rootCert.NotBefore)
	if err != nil {
		return err
	}
	id.agreementCert = agreementCert
	signs, err := id.root.ecdsa()
	if err != nil {
		return err
	}
	agrees, err := id.agreement.ecdh()
	if err != nil {
		return err
	}
	if !signs.Equal(id.rootCert.PublicKey) || !agrees.Equal(agreed) {
		return errors.New("a certificate is of another key")
	}
	return nil
}

// samePCRs reports whether a root is bound to the PCRs that the configuration
// has: one that is not, is not the one that its reader believes it to be.
func (id *identity) samePCRs(configured []int) bool {
	var own []int
	for _, p := range id.pcrs {
		own = append(own, p.Index)
	}
	return slices.Equal(own, slices.Sorted(slices.Values(configured)))
}

// readState reads the identity in a state folder.
func readState(folder string) (*identity, error) {
	info, err := os.Stat(folder)
	if err != nil {
		return nil, err
	}
	path := filepath.Join(folder, rootFile)
	if _, err := os.Stat(path); err != nil {
		return nil, err
	}
	if err := keys.CheckMode(folder, info, "700"); err != nil {
		return nil, err
	}
	data, err := keys.ReadPrivate(path, maxState)
	if err != nil {
		return nil, err
	}
	id, err := parseIdentity(data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return id, nil
}

// A secret is an auth value. It is behind a func so that nothing can print it.
type secret struct{ reveal func() []byte }

// Format hides it from package fmt.
func (secret) Format(f fmt.State, _ rune) { io.WriteString(f, "[secret]") }

const (
	minAuth = 16
	maxAuth = 32 // bytes: the size of the keys' name algorithm (part 1, section 13)
)

// newAuth makes an auth value of 192 random bits, as text: go-tpm cuts one off
// at its first zero byte.
func newAuth() secret {
	bits := make([]byte, 24)
	rand.Read(bits) // never fails (crypto/rand)
	value := []byte(base64.RawURLEncoding.EncodeToString(bits))
	return secret{func() []byte { return value }}
}

// readAuth reads an auth value from a file: its bytes, without a line feed at
// the end.
func readAuth(path string) (secret, error) {
	data, err := keys.ReadPrivate(path, maxState)
	if err != nil && !errors.Is(err, keys.ErrPermissions) {
		// Not as fs.ErrNotExist, which means that there is no root.
		return secret{}, fmt.Errorf("reading the auth value of the TPM keys: %v", err)
	}
	if err != nil {
		return secret{}, fmt.Errorf("reading the auth value of the TPM keys: %w", err)
	}
	value := bytes.TrimSuffix(data, []byte("\n"))
	if len(value) < minAuth || len(value) > maxAuth || bytes.IndexByte(value, 0) >= 0 {
		return secret{}, fmt.Errorf("%s: want an auth value of %d to %d bytes without zero bytes; for a new root, make one with: openssl rand -base64 24", path, minAuth, maxAuth)
	}
	return secret{func() []byte { return value }}, nil
}
