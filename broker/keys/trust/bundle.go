package trust

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
)

// Kinds of what keeps the keys of a broker's root.
const (
	KindTPM      = "tpm"
	KindPKCS11   = "pkcs11"
	KindSoftware = "software"
)

const (
	bundleFormat = 1

	// MaxBundle bounds an encoded bundle, in bytes. With its attestation a
	// broker takes about 8 KiB, an epoch 600 bytes.
	MaxBundle = 1 << 20

	maxEpochs       = 1000 // a broker has four at a time
	maxEndorsements = 16   // of one root; a broker is let in by one, once
	maxURL          = 2000
)

// A Bundle is what GET /v1/trust answers: the fleet's roots and epochs, and what
// vouches for them. Nothing in it is secret, and nothing in it is to be believed
// before [Bundle.Verify] said so.
type Bundle struct {
	Format  int      `json:"format"` // 1
	URL     string   `json:"url"`    // the broker's
	Brokers []Broker `json:"brokers"`
	Epochs  [][]byte `json:"epochs"` // certificates, DER
}

// A Broker is one of the fleet: the certificates of its keys, and who says what
// about them.
type Broker struct {
	Kind         string       `json:"kind"`      // what it says keeps its keys: "tpm", "pkcs11", "software"; proved by Attestation only
	Root         []byte       `json:"root"`      // certificate, DER
	Agreement    []byte       `json:"agreement"` // certificate, DER
	Attestation  *Attestation `json:"attestation,omitempty"`
	Endorsements [][]byte     `json:"endorsements,omitempty"` // of this root, by other roots, DER
}

// NewBundle returns a bundle of the brokers at url. No epochs is an empty list.
func NewBundle(url string, brokers []Broker, epochs [][]byte) *Bundle {
	if epochs == nil {
		epochs = [][]byte{}
	}
	return &Bundle{Format: bundleFormat, URL: url, Brokers: brokers, Epochs: epochs}
}

// Encode returns the one form of b that [ParseBundle] takes, besides white
// space.
func (b *Bundle) Encode() ([]byte, error) {
	if err := b.check(); err != nil {
		return nil, fmt.Errorf("encoding a trust bundle: %w", err)
	}
	data, err := b.encode()
	if err == nil && len(data) > MaxBundle {
		err = fmt.Errorf("%d bytes, more than %d", len(data), MaxBundle)
	}
	if err != nil {
		return nil, fmt.Errorf("encoding a trust bundle: %w", err)
	}
	return data, nil
}

func (b *Bundle) encode() ([]byte, error) {
	whole := *b
	if whole.Epochs == nil {
		whole.Epochs = [][]byte{} // never null
	}
	return json.Marshal(whole)
}

// ParseBundle reads a bundle. It takes what [Bundle.Encode] writes, with any
// white space between its tokens: a member that is unknown, there twice, in
// another place or written otherwise is refused, so that no two readers can
// read two things. Whether to believe the bundle is for [Bundle.Verify] to say.
func ParseBundle(data []byte) (*Bundle, error) {
	b, err := parseBundle(data)
	if err != nil {
		return nil, fmt.Errorf("reading a trust bundle: %w", err)
	}
	return b, nil
}

func parseBundle(data []byte) (*Bundle, error) {
	if len(data) > MaxBundle {
		return nil, fmt.Errorf("more than %d bytes", MaxBundle)
	}
	var compact bytes.Buffer
	if err := json.Compact(&compact, data); err != nil {
		return nil, errors.New("it is not JSON")
	}
	var b Bundle
	if err := json.Unmarshal(compact.Bytes(), &b); err != nil {
		return nil, errors.New("its members are of other types")
	}
	if err := b.check(); err != nil {
		return nil, err
	}
	again, err := b.encode()
	if err != nil {
		return nil, err
	}
	if !bytes.Equal(again, compact.Bytes()) {
		return nil, errors.New("it has members that are unknown, there twice, in another order or in another form than a broker writes")
	}
	return &b, nil
}

// check holds b to the bounds of the format.
func (b *Bundle) check() error {
	switch {
	case b.Format != bundleFormat:
		return fmt.Errorf("its format is %d, not %d: use a newer brevet", b.Format, bundleFormat)
	case len(b.Brokers) == 0, len(b.Brokers) > maxRoots:
		return fmt.Errorf("it has %d brokers, not 1 to %d", len(b.Brokers), maxRoots)
	case len(b.Epochs) > maxEpochs:
		return fmt.Errorf("it has %d epochs, more than %d", len(b.Epochs), maxEpochs)
	}
	if err := checkURL(b.URL); err != nil {
		return err
	}
	for i := range b.Brokers {
		if err := b.Brokers[i].check(); err != nil {
			return fmt.Errorf("broker %d: %w", i+1, err)
		}
	}
	return checkCertificates(b.Epochs, MaxCertificate)
}

// checkURL refuses what no epoch can be certified for: the url of a broker is
// written as url.URL writes it.
func checkURL(s string) error {
	u, err := url.Parse(s)
	if err != nil || len(s) > maxURL || u.Host == "" || u.String() != s {
		return errors.New("its url is not a broker's")
	}
	return nil
}

func (b *Broker) check() error {
	switch {
	case b.Kind != KindTPM && b.Kind != KindPKCS11 && b.Kind != KindSoftware:
		return errors.New("its kind is neither tpm, pkcs11 nor software")
	case len(b.Endorsements) > maxEndorsements:
		return fmt.Errorf("it has %d endorsements, more than %d", len(b.Endorsements), maxEndorsements)
	}
	if err := checkCertificates(append([][]byte{b.Root, b.Agreement}, b.Endorsements...), MaxCertificate); err != nil {
		return err
	}
	if b.Attestation == nil {
		return nil
	}
	return b.Attestation.checkSizes()
}

func (a *Attestation) checkSizes() error {
	switch {
	case len(a.Nonce) > MaxNonce:
		return fmt.Errorf("its nonce has more than %d bytes", MaxNonce)
	case len(a.EKChain) > maxEKChain:
		return fmt.Errorf("the chain of its endorsement key has more than %d certificates", maxEKChain)
	case len(a.EK) > maxStructure:
		return fmt.Errorf("its endorsement key has more than %d bytes", maxStructure)
	}
	for _, data := range [][]byte{a.AK, a.Root.Public, a.Root.Attest, a.Root.Signature, a.Agreement.Public, a.Agreement.Attest, a.Agreement.Signature} {
		if len(data) == 0 || len(data) > maxStructure {
			return fmt.Errorf("a TPM structure of its attestation is missing, or has more than %d bytes", maxStructure)
		}
	}
	return checkCertificates(a.EKChain, maxEKCertificate)
}

func checkCertificates(all [][]byte, most int) error {
	for _, der := range all {
		if len(der) == 0 || len(der) > most {
			return fmt.Errorf("a certificate is missing, or has more than %d bytes", most)
		}
	}
	return nil
}
