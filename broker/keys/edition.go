package keys

import (
	"bytes"
	"crypto"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/asn1"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/big"
	"slices"
	"strings"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/brevet-dev/brevet/broker/keys/trust"
)

// ErrRing says that a ring of keys is not genuine, or not the one that follows
// the last one known.
var ErrRing = errors.New("not the ring of this fleet")

const (
	typeRing = "brevet-ring+jwt"

	// maxRing bounds what is parsed, in bytes: a KEK takes 300 for each broker,
	// a broker 4 KiB with its attestation. It holds 100 KEKs for 64 brokers.
	maxRing = 4 << 20

	// MaxMembers bounds the brokers of a fleet.
	MaxMembers = 64

	// maxKEKs bounds the versions: with one a month, decades.
	maxKEKs = 1000

	// maxRemoved bounds those who were: nobody can shorten the list, so one that
	// filled the ring would leave no room for another change.
	maxRemoved = 4096

	// maxBehind is how many versions at once may be missed. Without a bound a member
	// could sign the last number there is, and no version would come after it.
	maxBehind = 1 << 20

	// maxVersion is what readers of JSON keep exactly: RFC 7493, section 2.2.
	maxVersion = 1 << 53

	// maxAhead is how far in the future the times in an edition may lie: no clock
	// that is off by this much lets a broker work. Without a bound a member could
	// make a KEK that is never old enough to be destroyed.
	maxAhead = 24 * time.Hour

	// maxChange bounds the sentence that says what an edition changed, in bytes.
	maxChange = 200
)

// A ringDocument is the payload of an edition: what the fleet's brokers share.
// It is stored as a JWT that the root key of one of them signed, its kid that
// root's fingerprint. Nothing in it is secret: each KEK is encrypted to the
// agreement key of each broker.
type ringDocument struct {
	URL      string       `json:"url"`                // of the brokers
	Version  uint64       `json:"version"`            // one more with each change, from 1
	Previous string       `json:"previous,omitempty"` // digest of the edition before; none for the first
	Made     int64        `json:"iat"`                // seconds since 1970
	Change   string       `json:"change"`             // what is new in it, for people
	Members  []ringMember `json:"members"`            // in order of their fingerprints
	Removed  []string     `json:"removed,omitempty"`  // fingerprints that never come back, in order
	KEKs     []ringKEK    `json:"keks"`               // in the order in which they were made; the last one wraps
}

// A ringMember is a broker of the fleet.
type ringMember struct {
	trust.Broker
	Joined int64  `json:"joined"` // seconds since 1970
	By     string `json:"by"`     // fingerprint of the root that let it in
	Chip   bool   `json:"chip"`   // its TPM showed then that its attestation key lives in it
}

// A ringKEK is one version of the KEK, for every member.
type ringKEK struct {
	ID      string            `json:"id"`
	Made    int64             `json:"made"`    // seconds since 1970; the one before it wraps nothing from then on
	Needed  int64             `json:"needed"`  // until when data keys under it may be unwrapped, as far as Redis knew when this edition was made
	Wrapped map[string][]byte `json:"wrapped"` // by fingerprint: see kek.wrapFor
}

// An edition is one version of the ring, after its signature and its form were
// checked. Whether its signer may speak for the fleet is for [edition.follows].
type edition struct {
	ringDocument
	token  string
	digest string // "sha256:…" of what was signed; not of the signature, which has two spellings
	by     string // fingerprint of the signer
	roots  []*x509.Certificate
	agree  []*ecdh.PublicKey // in order of Members, as roots
}

// parseEdition reads a ring of the brokers at url that anyone may have written.
func parseEdition(token, url string, now time.Time) (*edition, error) {
	p, err := parseTokenWithin(maxRing, typeRing, token)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrRing, err)
	}
	e := &edition{token: token, digest: digest(p.signed), by: p.header.KeyID}
	if err := json.Unmarshal(p.payload, &e.ringDocument); err != nil {
		return nil, fmt.Errorf("%w: it is not JSON of the form brokers write", ErrRing)
	}
	again, err := json.Marshal(e.ringDocument)
	switch {
	case err != nil || !bytes.Equal(again, p.payload) || len(p.header.Chain) > 0:
		return nil, fmt.Errorf("%w: it is not of the form brokers write", ErrRing)
	case e.URL != url:
		return nil, fmt.Errorf("%w: it is of brokers at another url", ErrRing)
	}
	if err := e.check(now); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrRing, err)
	}
	signer := e.root(e.by)
	if signer == nil {
		return nil, fmt.Errorf("%w: no member of it signed it", ErrRing)
	}
	if !p.signedBy(signer) {
		return nil, fmt.Errorf("%w: its signature is wrong", ErrRing)
	}
	return e, nil
}

func (p *parsedToken) signedBy(root *x509.Certificate) bool {
	return jwt.SigningMethodES256.Verify(p.signed, p.signature, root.PublicKey) == nil
}

func digest(signed string) string {
	sum := sha256.Sum256([]byte(signed))
	return "sha256:" + hex.EncodeToString(sum[:])
}

// check reads the certificates of e and reports whether it is whole.
func (e *edition) check(now time.Time) error {
	switch {
	case e.Version == 0 || e.Version > maxVersion || (e.Version == 1) != (e.Previous == ""):
		return errors.New("its version is none")
	case len(e.Change) > maxChange || strings.ContainsFunc(e.Change, func(r rune) bool { return r < ' ' || r > '~' }):
		return errors.New("what it says of its change is not a short line")
	case len(e.Members) == 0 || len(e.Members) > MaxMembers:
		return fmt.Errorf("it has %d members", len(e.Members))
	case len(e.KEKs) == 0 || len(e.KEKs) > maxKEKs:
		return fmt.Errorf("it has %d KEKs", len(e.KEKs))
	case e.Made > now.Add(maxAhead).Unix():
		return errors.New("it was made in the future")
	case !slices.IsSorted(e.Removed) || len(e.Removed) > maxRemoved:
		return errors.New("the removed are not in order, or too many")
	case slices.ContainsFunc(e.Removed, func(s string) bool { return !trust.IsFingerprint(s) }):
		return errors.New("of the removed one is no fingerprint")
	}
	return errors.Join(e.checkMembers(now), e.checkKEKs(now))
}

func (e *edition) checkMembers(now time.Time) error {
	last := ""
	for i := range e.Members {
		m := &e.Members[i]
		root, err := trust.ParseRoot(m.Root)
		if err != nil {
			return err
		}
		_, agree, err := trust.ParseAgreement(m.Agreement, root, now)
		if err != nil {
			return err
		}
		if m.Kind != trust.KindTPM && m.Kind != trust.KindPKCS11 && m.Kind != trust.KindSoftware {
			return errors.New("the root of a member is of no kind that there is")
		}
		name := trust.Fingerprint(root)
		if name <= last || slices.Contains(e.Removed, name) {
			return errors.New("its members are not in order, or one was removed before")
		}
		last, e.roots, e.agree = name, append(e.roots, root), append(e.agree, agree)
	}
	return nil
}

func (e *edition) checkKEKs(now time.Time) error {
	seen := map[string]bool{}
	for _, k := range e.KEKs {
		if k.Made > now.Add(maxAhead).Unix() || k.Needed > now.Add(longestNeed+maxAhead).Unix() {
			return errors.New("a KEK was made in the future, or is needed for longer than data keys live")
		}
		if k.ID == "" || seen[k.ID] || len(k.Wrapped) != len(e.Members) {
			return errors.New("a KEK has no name of its own, or is not for every member")
		}
		seen[k.ID] = true
		for _, root := range e.roots {
			if len(k.Wrapped[trust.Fingerprint(root)]) == 0 {
				return errors.New("a KEK is not for every member")
			}
		}
	}
	return nil
}

// root returns the root certificate with a fingerprint, or nil.
func (e *edition) root(fingerprint string) *x509.Certificate {
	for _, root := range e.roots {
		if trust.Fingerprint(root) == fingerprint {
			return root
		}
	}
	return nil
}

func (e *edition) has(fingerprint string) bool { return e.root(fingerprint) != nil }

// follows reports whether e may take the place of known, the last edition that
// was believed: it is newer, and signed by a member of known or by one whom
// they let in since.
//
// A broker that was away while another was removed does not know of the removal
// before it sees an edition that tells; until then the removed one could sign for it.
func (e *edition) follows(known *edition, now time.Time) error {
	switch {
	case e.Version < known.Version:
		return fmt.Errorf("%w: it is version %d, and version %d was seen before", ErrRing, e.Version, known.Version)
	case e.Version-known.Version > maxBehind:
		return fmt.Errorf("%w: it is version %d, too far ahead of %d, the last one known", ErrRing, e.Version, known.Version)
	case e.Version == known.Version && e.digest != known.digest, e.Version == known.Version+1 && e.Previous != known.digest:
		return fmt.Errorf("%w: version %d of it is another than the one known: someone signs for two fleets", ErrRing, e.Version)
	}
	for _, gone := range known.Removed {
		if !slices.Contains(e.Removed, gone) {
			return fmt.Errorf("%w: it forgets that %s was removed", ErrRing, gone)
		}
	}
	if !e.speaksFor(known.roots, now) {
		return fmt.Errorf("%w: %s signed it, whom no known member let in", ErrRing, e.by)
	}
	return nil
}

// speaksFor reports whether one of roots signed e, or a member whom they
// endorse, or one whom those endorse, and so on.
func (e *edition) speaksFor(roots []*x509.Certificate, now time.Time) bool {
	trusted := slices.Clone(roots)
	for grew := true; grew; {
		grew = false
		for i, root := range e.roots {
			if !slices.ContainsFunc(trusted, root.Equal) && endorsed(e.Members[i].Endorsements, root, trusted, now) {
				trusted, grew = append(trusted, root), true
			}
		}
	}
	return slices.ContainsFunc(trusted, e.root(e.by).Equal)
}

func endorsed(by [][]byte, root *x509.Certificate, trusted []*x509.Certificate, now time.Time) bool {
	return slices.ContainsFunc(by, func(der []byte) bool {
		_, _, err := trust.ParseEndorsement(der, root, trusted, now)
		return err == nil
	})
}

// next returns a copy of the document, to be changed into the next version. Of
// no edition, it is the first version.
func (e *edition) next(url, change string, now time.Time) *ringDocument {
	d := &ringDocument{URL: url, Version: 1, Made: now.Unix(), Change: change}
	if e == nil {
		return d
	}
	d.Version, d.Previous = e.Version+1, e.digest
	d.Members, d.Removed, d.KEKs = slices.Clone(e.Members), slices.Clone(e.Removed), slices.Clone(e.KEKs)
	for i := range d.KEKs {
		d.KEKs[i].Wrapped = maps.Clone(d.KEKs[i].Wrapped)
	}
	return d
}

// sign makes an edition of d, as its member root.
func (d *ringDocument) sign(root Root, now time.Time) (*edition, error) {
	slices.SortFunc(d.Members, func(a, b ringMember) int { return strings.Compare(fingerprintOf(a.Root), fingerprintOf(b.Root)) })
	slices.Sort(d.Removed)
	token, err := signByRoot(root, typeRing, d)
	if err != nil {
		return nil, err
	}
	return parseEdition(token, d.URL, now) // as every other broker will
}

// signByRoot returns claims as a JWT with header typ that the root key signed,
// its kid the root's fingerprint: what brokers of a fleet say to each other.
func signByRoot(root Root, typ string, claims any) (string, error) {
	head, err := json.Marshal(header{Algorithm: algorithm, KeyID: trust.Fingerprint(root.Certificate()), Type: typ})
	if err != nil {
		return "", fmt.Errorf("encoding the header of a %s: %w", typ, err)
	}
	body, err := json.Marshal(claims)
	if err != nil {
		return "", fmt.Errorf("encoding a %s: %w", typ, err)
	}
	signed := base64.RawURLEncoding.EncodeToString(head) + "." + base64.RawURLEncoding.EncodeToString(body)
	sig, err := signES256(root.Signer(), signed)
	if err != nil {
		return "", fmt.Errorf("signing a %s by the %s root: %w", typ, root.Kind(), err)
	}
	return signed + "." + base64.RawURLEncoding.EncodeToString(sig), nil
}

func fingerprintOf(der []byte) string { return trust.Fingerprint(&x509.Certificate{Raw: der}) }

// signES256 signs as RFC 7518, section 3.4 says, with a key that a chip may
// hold: crypto.Signer gives the two numbers in ASN.1.
func signES256(s crypto.Signer, signed string) ([]byte, error) {
	if pub, ok := s.Public().(*ecdsa.PublicKey); !ok || pub.Params().BitSize != 256 {
		return nil, errors.New("the root is no key on P-256")
	}
	sum := sha256.Sum256([]byte(signed))
	der, err := s.Sign(rand.Reader, sum[:], crypto.SHA256)
	if err != nil {
		return nil, err
	}
	var sig struct{ R, S *big.Int }
	if rest, err := asn1.Unmarshal(der, &sig); err != nil || len(rest) > 0 || sig.R.Sign() <= 0 || sig.S.Sign() <= 0 || max(sig.R.BitLen(), sig.S.BitLen()) > 256 {
		return nil, errors.New("the root answered with what is no signature")
	}
	return append(sig.R.FillBytes(make([]byte, 32)), sig.S.FillBytes(make([]byte, 32))...), nil
}
