package trust

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"time"
)

// ErrUnknownRoot says that nothing the verifier knows speaks for a root. It may
// be the right one: its fingerprint must come from its operator, over another
// way than the bundle.
var ErrUnknownRoot = errors.New("nothing says that this is the right root")

// VerifyOptions are what a verifier knows from elsewhere, and what it asks for.
type VerifyOptions struct {
	// Pins are the fingerprints of roots that are known to be right, as
	// [Fingerprint] writes them. At least one must be in the bundle; roots that
	// are not pinned must be endorsed by one that is trusted.
	Pins []string

	// EKRoots are CAs of TPM makers. If there are any, every attestation must
	// have a certificate of its endorsement key that leads to one; nil: those
	// certificates are not checked. They do not replace a pin: the certificate
	// of an endorsement key says that there is such a TPM somewhere, not whose
	// it is, nor that the attestation key is in it.
	EKRoots []*x509.Certificate

	// RequireTPM refuses brokers without an attestation.
	RequireTPM bool

	// Nonce, if any, must be answered by an attestation in the bundle: that of
	// the broker that was asked. Those of others are older, and answer others.
	Nonce []byte

	// Now is when all must be valid. The zero time is none at which anything is.
	Now time.Time
}

// A Report says what [Bundle.Verify] found of a bundle that it did not refuse.
type Report struct {
	URL     string         `json:"url"`
	Brokers []BrokerReport `json:"brokers"`
	Epochs  []EpochReport  `json:"epochs"`
}

// A BrokerReport says why the root of a broker is trusted.
type BrokerReport struct {
	Root        string             `json:"root"` // fingerprint
	Kind        string             `json:"kind"` // "tpm" is proved as far as Attestation says; others are what the broker says
	Trusted     string             `json:"trusted"`
	Ends        time.Time          `json:"ends"` // of the root's certificate
	Attestation *AttestationReport `json:"attestation,omitempty"`
}

// Why a root is trusted: it was pinned, or a trusted one, whose fingerprint
// follows, endorsed it.
const (
	Pinned     = "pinned"
	EndorsedBy = "endorsed by "
)

// SelfAsserted is what an attestation key always is, offline: nothing in the
// bundle ties it to the endorsement key. See [Attestation.Check].
const SelfAsserted = "self-asserted"

// An AttestationReport says what is proved about where the keys of a root live.
type AttestationReport struct {
	AK     string `json:"ak"`              // its Name, in hexadecimal
	Proof  string `json:"proof"`           // that AK is a TPM's: SelfAsserted
	EK     string `json:"ek,omitempty"`    // Name of the endorsement key that the broker says is in the same TPM
	EKCA   string `json:"ek_ca,omitempty"` // subject of the CA among EKRoots that its certificate leads to; "": not checked
	Fresh  bool   `json:"fresh"`           // it answers VerifyOptions.Nonce
	Policy bool   `json:"policy"`          // see Attestation.HasPolicy
}

// An EpochReport is about a key that signs tokens.
type EpochReport struct {
	KeyID     string    `json:"kid"`    // as in the JWKS: its thumbprint, RFC 7638
	Serial    string    `json:"serial"` // of its certificate, in hexadecimal
	Root      string    `json:"root"`   // fingerprint of the root that signed it
	NotBefore time.Time `json:"not_before"`
	NotAfter  time.Time `json:"not_after"`
}

// Verify reports why each root and epoch of b can be trusted, or refuses all of
// b. A root is trusted if it is pinned, or endorsed by a trusted one: brokers that
// were let into a fleet let in others. (The path lengths are for those who build
// X.509 chains: they go one endorsement far.) An epoch is trusted if such a root
// signed it. Attestations must be right whoever is trusted, and a broker that says
// its kind is "tpm" must have one.
func (b *Bundle) Verify(o VerifyOptions) (*Report, error) {
	report, err := b.verify(o)
	if err != nil {
		return nil, fmt.Errorf("verifying a trust bundle: %w", err)
	}
	return report, nil
}

func (b *Bundle) verify(o VerifyOptions) (*Report, error) {
	if err := b.check(); err != nil {
		return nil, err
	}
	members, err := b.members(o.Now)
	if err != nil {
		return nil, err
	}
	if err := trustAll(members, o); err != nil {
		return nil, err
	}
	if err := attestAll(members, o); err != nil {
		return nil, err
	}
	report := &Report{URL: b.URL}
	for _, m := range members {
		report.Brokers = append(report.Brokers, m.report)
	}
	report.Epochs, err = b.epochs(members, o.Now)
	return report, err
}

// A member is a broker while it is verified.
type member struct {
	*Broker
	root, agreement *x509.Certificate
	report          BrokerReport
}

// wrap says whom err is about.
func (m *member) wrap(err error) error { return fmt.Errorf("root %s: %w", m.report.Root, err) }

// members reads the certificates of all brokers, each of another key.
func (b *Bundle) members(now time.Time) ([]*member, error) {
	var out []*member
	seen := make(map[string]bool)
	for i := range b.Brokers {
		m, err := b.Brokers[i].member(now)
		if err != nil {
			return nil, fmt.Errorf("broker %d: %w", i+1, err)
		}
		for _, cert := range []*x509.Certificate{m.root, m.agreement} {
			if key := string(cert.RawSubjectPublicKeyInfo); seen[key] {
				return nil, m.wrap(errors.New("one of its keys is there twice"))
			} else {
				seen[key] = true
			}
		}
		out = append(out, m)
	}
	return out, nil
}

func (b *Broker) member(now time.Time) (*member, error) {
	root, err := ParseRoot(b.Root)
	if err != nil {
		return nil, err
	}
	agreement, _, err := ParseAgreement(b.Agreement, root, now) // sees to the validity of root, too
	if err != nil {
		return nil, err
	}
	return &member{b, root, agreement, BrokerReport{Root: Fingerprint(root), Kind: b.Kind, Ends: root.NotAfter}}, nil
}

// trustAll finds for each root why it is trusted.
func trustAll(members []*member, o VerifyOptions) error {
	for _, pin := range o.Pins {
		if !IsFingerprint(pin) {
			return fmt.Errorf("%q is no fingerprint of a root: want sha256: and 64 digits of 0-9a-f", pin)
		}
	}
	var trusted []*x509.Certificate
	for _, m := range members {
		if slices.Contains(o.Pins, m.report.Root) {
			m.report.Trusted, trusted = Pinned, append(trusted, m.root)
		}
	}
	if len(trusted) == 0 {
		return fmt.Errorf("none of its roots is pinned: %w", ErrUnknownRoot)
	}
	for i := 0; i < len(trusted); i++ { // each endorsement is tried once with each root
		for _, m := range members {
			if m.report.Trusted == "" && m.endorsed(trusted[i:i+1], o.Now) == nil {
				trusted = append(trusted, m.root)
			}
		}
	}
	for _, m := range members {
		if m.report.Trusted != "" {
			continue
		}
		return m.wrap(fmt.Errorf("neither pinned nor endorsed by a root that is trusted (%w): %w", m.endorsed(trusted, o.Now), ErrUnknownRoot))
	}
	return nil
}

// endorsed finds the endorsement of m by one of roots. Those by others say
// nothing, whatever is wrong with them.
func (m *member) endorsed(roots []*x509.Certificate, now time.Time) error {
	err := errors.New("it has no endorsement")
	for _, der := range m.Endorsements {
		_, by, parseErr := ParseEndorsement(der, m.root, roots, now)
		if parseErr == nil {
			m.report.Trusted = EndorsedBy + Fingerprint(by)
			return nil
		}
		err = parseErr
	}
	return err
}

// attestAll checks all attestations, and that one answers the nonce.
func attestAll(members []*member, o VerifyOptions) error {
	fresh := false
	for _, m := range members {
		if err := m.attest(o); err != nil {
			return m.wrap(err)
		}
		fresh = fresh || m.report.Attestation != nil && m.report.Attestation.Fresh
	}
	if len(o.Nonce) > 0 && !fresh {
		return errors.New("no attestation answers the nonce")
	}
	return nil
}

func (m *member) attest(o VerifyOptions) error {
	a := m.Attestation
	switch {
	case a == nil && m.Kind == KindTPM:
		return errors.New("its broker says that it is in a TPM, and has no attestation")
	case a == nil && o.RequireTPM:
		return fmt.Errorf("it is not in a TPM: its kind is %s", m.Kind)
	case a == nil:
		return nil
	case m.Kind != KindTPM:
		return fmt.Errorf("its kind is %s, and it has an attestation by a TPM", m.Kind)
	}
	if err := a.Check(m.root, m.agreement, a.Nonce); err != nil {
		return err
	}
	report, err := a.report(o)
	m.report.Attestation = report
	return err
}

// report describes an attestation that Check did not refuse.
func (a *Attestation) report(o VerifyOptions) (*AttestationReport, error) {
	ak, err := Name(a.AK)
	if err != nil {
		return nil, err
	}
	r := &AttestationReport{
		AK: hex.EncodeToString(ak), Proof: SelfAsserted, Policy: a.HasPolicy(),
		Fresh: len(o.Nonce) > 0 && bytes.Equal(a.Nonce, o.Nonce),
	}
	if len(a.EK) > 0 {
		ek, err := Name(a.EK)
		if err != nil {
			return nil, err
		}
		r.EK = hex.EncodeToString(ek)
	}
	if len(o.EKRoots) > 0 {
		ca, err := a.CheckEK(o.EKRoots, o.Now)
		if err != nil {
			return nil, err
		}
		r.EKCA = ca.Subject.String()
	}
	return r, nil
}

// epochs reads the certificates of all epochs, each of another key and signed by
// one of the members' roots.
func (b *Bundle) epochs(members []*member, now time.Time) ([]EpochReport, error) {
	var roots []*x509.Certificate
	for _, m := range members {
		roots = append(roots, m.root)
	}
	out := []EpochReport{}
	seen := make(map[string]bool)
	for i, der := range b.Epochs {
		cert, root, err := ParseEpoch(der, roots, b.URL, now, MaxEpoch)
		if err != nil {
			return nil, fmt.Errorf("epoch %d: %w", i+1, err)
		}
		kid, err := thumbprint(cert)
		if err != nil {
			return nil, fmt.Errorf("epoch %d: %w", i+1, err)
		}
		if seen[kid] {
			return nil, fmt.Errorf("epoch %d: its key %s is there twice", i+1, kid)
		}
		seen[kid] = true
		out = append(out, EpochReport{kid, cert.SerialNumber.Text(16), Fingerprint(root), cert.NotBefore, cert.NotAfter})
	}
	return out, nil
}

// thumbprint returns the kid of an epoch key: RFC 7638, section 3.2.
func thumbprint(cert *x509.Certificate) (string, error) {
	point, err := cert.PublicKey.(*ecdsa.PublicKey).Bytes() // parse saw to the type; 0x04, x, y: 32 bytes each
	if err != nil {
		return "", fmt.Errorf("encoding an epoch key: %w", err)
	}
	x, y := base64.RawURLEncoding.EncodeToString(point[1:33]), base64.RawURLEncoding.EncodeToString(point[33:])
	sum := sha256.Sum256([]byte(`{"crv":"P-256","kty":"EC","x":"` + x + `","y":"` + y + `"}`))
	return base64.RawURLEncoding.EncodeToString(sum[:]), nil
}
