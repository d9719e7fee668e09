package keys

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/brevet-dev/brevet/broker"
	"github.com/brevet-dev/brevet/broker/keys/trust"
)

// A broker joins a fleet over Redis, which neither side believes: each side was
// told the other's fingerprint by an operator, and everything else hangs on the
// two.
//
//	new broker    Join:    what it says of itself                → request
//	member        Enroll:  checks it; a secret for its chip      → challenge
//	new broker             what its chip found in it, hashed     → answer
//	member                 endorses its root, wraps all KEKs     → the next edition
//	new broker             believes it: it leads to the fingerprint that it was told
const (
	// joinKey + fingerprint is a hash with request, challenge and answer.
	joinKey = "brevet:ring:join:"

	// joinFor is how long a request waits for an operator, and is kept.
	joinFor = 15 * time.Minute

	// answerWithin is how long a member waits for the new broker's chip.
	answerWithin = time.Minute

	// joinEvery is how often each side looks whether the other has written.
	joinEvery = 500 * time.Millisecond

	// maxJoin bounds what is read of a join, in bytes: an attestation with the
	// certificates of a TPM's maker takes about 8 KiB.
	maxJoin = 64 << 10
)

var (
	// ErrApplicant says that what asks to join is not to be let in.
	ErrApplicant = errors.New("not let into the fleet")

	// ErrNoApplicant says that no broker with that fingerprint waits to join.
	ErrNoApplicant = errors.New("no broker with this root waits to join")
)

// Join asks to be let into a fleet, of which fleet is the fingerprint of some
// member's root, and waits until that has happened, for 15 minutes at most.
func Join(ctx context.Context, client redis.UniversalClient, o RingOptions, fleet string) error {
	r := newRing(client, o)
	ctx, cancel := context.WithTimeout(ctx, joinFor)
	defer cancel()
	if err := r.withoutFleet(ctx); err != nil {
		return err
	}
	if err := r.mayJoin(ctx, fleet); err != nil {
		return err
	}
	me, err := r.self(ctx)
	if err != nil {
		return err
	}
	request, err := signByRoot(o.Root, typeJoin, joinRequest{o.URL, fleet, *me})
	if err != nil {
		return err
	}
	if err := r.store.putJoin(ctx, r.name, "request", []byte(request)); err != nil {
		return err
	}
	return r.awaitEntry(ctx, fleet)
}

// mayJoin reports what makes a request to the member fleet hopeless, as far as
// Redis tells, so that an operator learns of it before anybody is let in.
func (r *Ring) mayJoin(ctx context.Context, fleet string) error {
	e, err := r.fetch(ctx)
	switch {
	case err != nil:
		return err
	case fleet == r.name:
		return fmt.Errorf("%w: %s is this broker's own root", ErrApplicant, fleet)
	case e == nil:
		return fmt.Errorf("%w: redis has no ring yet; start the broker that is to let this one in", ErrApplicant)
	case slices.Contains(e.Removed, r.name):
		return fmt.Errorf("%w, redis says", ErrRemoved)
	case !e.has(fleet):
		return fmt.Errorf("%w: no broker in redis has the root %s", ErrApplicant, fleet)
	}
	return nil
}

// withoutFleet reports an error if this broker knows a fleet.
func (r *Ring) withoutFleet(ctx context.Context) error {
	release, err := r.local.lock(ctx)
	if err != nil {
		return err
	}
	defer release()
	known, err := r.known(ctx)
	if err == nil && known != nil {
		err = fmt.Errorf("this broker is in a fleet already, since version %d of its ring at the latest", known.Version)
	}
	return err
}

// awaitEntry answers the challenge when there is one, until the ring has this
// broker in it.
func (r *Ring) awaitEntry(ctx context.Context, fleet string) error {
	answered := ""
	return r.poll(ctx, func() (bool, error) {
		if done, err := r.enter(ctx, fleet); done || err != nil {
			return done, err
		}
		challenge, err := r.store.getJoin(ctx, r.name, "challenge")
		if err != nil || challenge == "" || challenge == answered {
			return false, err
		}
		answered = challenge
		return false, r.answer(ctx, challenge)
	})
}

// enter takes the ring in Redis if this broker is in it, and the member whose
// fingerprint was given signed just that. An edition by another whom that member
// let in once is not enough: he may have been removed since, which this broker
// cannot know.
func (r *Ring) enter(ctx context.Context, fleet string) (bool, error) {
	e, err := r.fetch(ctx)
	if err != nil || e == nil || !e.has(r.name) {
		return false, err
	}
	if e.by != fleet || fleet == r.name {
		return false, fmt.Errorf("%w: it has this broker in it, and %s signed it, not %s; if somebody changed it since that one let this broker in, compare the digest there, and run here: brevetd keys recover %s", ErrRing, e.by, fleet, e.digest)
	}
	release, err := r.local.lock(ctx)
	if err != nil {
		return false, err
	}
	defer release()
	return true, r.take(ctx, e, nil)
}

func (r *Ring) answer(ctx context.Context, challenge string) error {
	c := &trust.Challenge{}
	a, ok := r.o.Root.(Activator)
	if err := json.Unmarshal([]byte(challenge), c); err != nil || !ok {
		return fmt.Errorf("%w: a challenge that this broker cannot answer", ErrRing)
	}
	secret, err := a.Activate(ctx, c)
	if err != nil {
		return fmt.Errorf("answering the fleet's challenge: %w", err)
	}
	sum := sha256.Sum256(secret)
	return r.store.putJoin(ctx, r.name, "answer", sum[:])
}

// EnrollOptions say whom [Ring.Enroll] lets in.
type EnrollOptions struct {
	// Unattested lets in a root that does not prove to live in a TPM although the
	// own one does: an HSM, or software.
	Unattested bool

	// EKRoots are certificates of TPM makers; the chip's endorsement certificate
	// must lead to one of them. nil: any chip.
	EKRoots []*x509.Certificate
}

// Enroll lets the broker in that waits in [Join] and whose root has this
// fingerprint, as the operator read it on that machine. It returns
// [ErrNoApplicant] if none waits, and [ErrApplicant] if it does not prove
// what it must.
func (r *Ring) Enroll(ctx context.Context, fingerprint string, o EnrollOptions) (RingChange, error) {
	b, root, err := r.applicant(ctx, fingerprint)
	if err != nil {
		return RingChange{}, err
	}
	chip, err := r.examine(ctx, b, root, o)
	if err != nil {
		return RingChange{}, err
	}
	return r.change(ctx, func(d *ringDocument, now time.Time) error {
		m := ringMember{Broker: *b, Joined: now.Unix(), By: r.name, Chip: chip}
		d.Change = "enrolled " + fingerprint
		return r.admit(d, m, root, now)
	})
}

// applicant reads what the broker with a fingerprint says of itself.
func (r *Ring) applicant(ctx context.Context, fingerprint string) (*trust.Broker, *x509.Certificate, error) {
	if r.state.Load().has(fingerprint) {
		return nil, nil, fmt.Errorf("%w: it is in the fleet already", ErrApplicant)
	}
	request, err := r.store.getJoin(ctx, fingerprint, "request")
	if err != nil {
		return nil, nil, err
	}
	if request == "" {
		return nil, nil, fmt.Errorf("%w: %s", ErrNoApplicant, fingerprint)
	}
	b, root, err := parseRequest(request, r.o.URL, r.name)
	if err != nil {
		return nil, nil, fmt.Errorf("%w: %w", ErrApplicant, err)
	}
	if trust.Fingerprint(root) != fingerprint {
		return nil, nil, fmt.Errorf("%w: the request under that fingerprint is of another root", ErrApplicant)
	}
	if _, _, err := trust.ParseAgreement(b.Agreement, root, time.Now()); err != nil {
		return nil, nil, fmt.Errorf("%w: %w", ErrApplicant, err)
	}
	return b, root, nil
}

// A joinRequest is the payload of a request: a JWT that the new broker's root
// signed.
type joinRequest struct {
	URL    string       `json:"url"`
	Fleet  string       `json:"fleet"` // fingerprint of the member that is asked
	Broker trust.Broker `json:"broker"`
}

const typeJoin = "brevet-join+jwt"

// parseRequest reads a request to the member with a fingerprint, of the broker at
// url, that anyone may have written.
func parseRequest(token, url, member string) (*trust.Broker, *x509.Certificate, error) {
	p, err := parseTokenWithin(maxJoin, typeJoin, token)
	if err != nil {
		return nil, nil, err
	}
	q := &joinRequest{}
	if err := json.Unmarshal(p.payload, q); err != nil || q.URL != url {
		return nil, nil, errors.New("its request is of brokers at another url, or not JSON")
	}
	root, err := trust.ParseRoot(q.Broker.Root)
	if err != nil {
		return nil, nil, err
	}
	if p.header.KeyID != trust.Fingerprint(root) || !p.signedBy(root) {
		return nil, nil, errors.New("its root did not sign its request")
	}
	if q.Fleet != member {
		return nil, nil, fmt.Errorf("it was told of another member: enroll it there, on the broker with the root %.80q", q.Fleet)
	}
	q.Broker.Endorsements = nil // are given by members, not by itself
	return &q.Broker, root, nil
}

// examine checks what b can prove of its root, and reports whether its chip
// answered a challenge.
func (r *Ring) examine(ctx context.Context, b *trust.Broker, root *x509.Certificate, o EnrollOptions) (chip bool, err error) {
	_, attests := r.o.Root.(Attester)
	a := b.Attestation
	switch {
	case a == nil && (b.Kind == "tpm" || len(o.EKRoots) > 0):
		return false, fmt.Errorf("%w: its root, of kind %.20q, does not prove that it lives in a TPM", ErrApplicant, b.Kind)
	case a == nil && attests && !o.Unattested:
		return false, fmt.Errorf("%w: its root, of kind %.20q, does not prove that it lives in a TPM as this broker's does; --allow-unattested lets it in all the same", ErrApplicant, b.Kind)
	case a == nil:
		return false, nil
	}
	agreement, _, err := trust.ParseAgreement(b.Agreement, root, time.Now())
	if err == nil {
		err = a.Check(root, agreement, nil)
	}
	if err == nil && len(o.EKRoots) > 0 {
		_, err = a.CheckEK(o.EKRoots, time.Now())
	}
	if err != nil {
		return false, fmt.Errorf("%w: %w", ErrApplicant, err)
	}
	if r.o.Challenge == nil {
		return false, nil
	}
	return true, r.challenge(ctx, trust.Fingerprint(root), a)
}

// challenge has the chip of an applicant show that it has both the endorsement
// key and the attestation key.
func (r *Ring) challenge(ctx context.Context, fingerprint string, a *trust.Attestation) error {
	secret := make([]byte, 32)
	rand.Read(secret) // never fails: crypto/rand.Read, Go 1.24
	c, err := r.o.Challenge(a, secret)
	if err != nil {
		return fmt.Errorf("%w: making a challenge for its chip: %w", ErrApplicant, err)
	}
	body, err := json.Marshal(c)
	if err != nil {
		return fmt.Errorf("encoding a challenge: %w", err)
	}
	if err := r.store.putJoin(ctx, fingerprint, "challenge", body); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, answerWithin)
	defer cancel()
	want := sha256.Sum256(secret)
	err = r.poll(ctx, func() (bool, error) {
		answer, err := r.store.getJoin(ctx, fingerprint, "answer")
		return bytes.Equal([]byte(answer), want[:]), err
	})
	if errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("%w: its chip did not answer the challenge within %s: it does not wait any more, or it is another chip than the one attested", ErrApplicant, answerWithin)
	}
	return err
}

// admit adds m to d, endorses its root, and wraps all KEKs for it.
func (r *Ring) admit(d *ringDocument, m ringMember, root *x509.Certificate, now time.Time) error {
	name := trust.Fingerprint(root)
	if len(d.Members) >= MaxMembers {
		return fmt.Errorf("%w: the fleet has %d brokers, and that is the most", ErrApplicant, MaxMembers)
	}
	for _, member := range d.Members {
		if fingerprintOf(member.Root) == name {
			return fmt.Errorf("%w: it is in it already", ErrApplicant)
		}
	}
	for _, gone := range d.Removed {
		if gone == name {
			return fmt.Errorf("%w: it was removed once; give it a new root", ErrApplicant)
		}
	}
	endorsement, err := trust.NewEndorsement(r.o.Root.Certificate(), r.o.Root.Signer(), root, now)
	if err != nil {
		return err
	}
	m.Endorsements = [][]byte{endorsement.Raw}
	if err := r.wrapAll(d, &m, now); err != nil {
		return err
	}
	d.Members = append(d.Members, m)
	if err := d.checkBundle(now); err != nil {
		return fmt.Errorf("%w: %w", ErrApplicant, err)
	}
	return nil
}

// checkBundle reports whether the trust bundle of d's members could be verified:
// one broker with a key of another, or a kind that it has not, would spoil it for
// all.
func (d *ringDocument) checkBundle(now time.Time) error {
	o := trust.VerifyOptions{Now: now}
	var brokers []trust.Broker
	for _, m := range d.Members {
		brokers, o.Pins = append(brokers, m.Broker), append(o.Pins, fingerprintOf(m.Root))
	}
	data, err := trust.NewBundle(d.URL, brokers, nil).Encode()
	if err != nil {
		return err
	}
	b, err := trust.ParseBundle(data)
	if err == nil {
		_, err = b.Verify(o)
	}
	return err
}

// poll asks until done, or an error that waiting does not mend, or ctx ends.
func (r *Ring) poll(ctx context.Context, ask func() (done bool, err error)) error {
	tick := time.NewTicker(joinEvery)
	defer tick.Stop()
	for {
		done, err := ask()
		if done || err != nil && !errors.Is(err, broker.ErrUnavailable) {
			return err
		}
		select {
		case <-ctx.Done():
			return errors.Join(ctx.Err(), err)
		case <-tick.C:
		}
	}
}

func (s ringStore) putJoin(ctx context.Context, fingerprint, field string, value []byte) error {
	_, err := s.redis.TxPipelined(ctx, func(p redis.Pipeliner) error {
		if field == "request" {
			p.Del(ctx, joinKey+fingerprint)
		}
		p.HSet(ctx, joinKey+fingerprint, field, value)
		p.Expire(ctx, joinKey+fingerprint, joinFor)
		return nil
	})
	if err != nil {
		return noRedis("writing a "+field, err)
	}
	return nil
}

// getJoin returns "" for what is not there, or too long to be genuine.
func (s ringStore) getJoin(ctx context.Context, fingerprint, field string) (string, error) {
	n, err := s.redis.Do(ctx, "HSTRLEN", joinKey+fingerprint, field).Int64()
	if err != nil {
		return "", noRedis("reading a "+field, err)
	}
	if n == 0 || n > maxJoin {
		return "", nil
	}
	value, err := s.redis.HGet(ctx, joinKey+fingerprint, field).Result()
	if err != nil && err != redis.Nil {
		return "", noRedis("reading a "+field, err)
	}
	return value, nil
}
