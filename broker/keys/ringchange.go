package keys

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/brevet-dev/brevet/broker"
	"github.com/brevet-dev/brevet/broker/keys/trust"
)

// ErrNeeded says that a KEK cannot be destroyed yet.
var ErrNeeded = errors.New("the KEK is still needed")

// changeTries is how often a change is made anew because another broker changed
// the ring at the same time. Each loser saw a winner, so this many in a row is
// no coincidence.
const changeTries = 10

// Rotate adds a KEK that wraps from now on. Every broker has it within seconds;
// what was wrapped before can still be unwrapped.
func (r *Ring) Rotate(ctx context.Context) (RingChange, error) {
	return r.change(ctx, func(d *ringDocument, now time.Time) error {
		if err := r.addKEK(d, now); err != nil {
			return err
		}
		d.Change = "rotated to KEK " + d.KEKs[len(d.KEKs)-1].ID
		return nil
	})
}

// Remove takes a broker out of the fleet, for ever: its epochs count no more,
// and it cannot read the KEK that is added at the same time. Those that it had
// read it still knows.
func (r *Ring) Remove(ctx context.Context, fingerprint string) (RingChange, error) {
	return r.change(ctx, func(d *ringDocument, now time.Time) error {
		n := len(d.Members)
		d.Members = slices.DeleteFunc(d.Members, func(m ringMember) bool { return fingerprintOf(m.Root) == fingerprint })
		switch {
		case fingerprint == r.name:
			return errors.New("a broker cannot remove itself; do it from another one")
		case len(d.Members) == n:
			return fmt.Errorf("no broker of the fleet has the root %s", fingerprint)
		}
		for _, k := range d.KEKs {
			delete(k.Wrapped, fingerprint)
		}
		d.Removed = append(d.Removed, fingerprint)
		d.Change = "removed " + fingerprint
		if err := r.speakForAll(d, now); err != nil {
			return err
		}
		return r.addKEK(d, now)
	})
}

// speakForAll endorses the members for whom only one who has gone spoke: else who
// pinned this broker's root could not verify the fleet any more.
func (r *Ring) speakForAll(d *ringDocument, now time.Time) error {
	own := r.o.Root.Certificate()
	trusted := []*x509.Certificate{own}
	for range d.Members { // one more can be reached each time, at least
		left := spread(d.Members, &trusted, now)
		if left == nil {
			return nil
		}
		root, err := trust.ParseRoot(left.Root)
		if err != nil {
			return err
		}
		endorsement, err := trust.NewEndorsement(own, r.o.Root.Signer(), root, now)
		if err != nil {
			return err
		}
		left.Endorsements = append([][]byte{endorsement.Raw}, left.Endorsements...)
		left.Endorsements = left.Endorsements[:min(len(left.Endorsements), maxEndorsements)]
	}
	return nil
}

// maxEndorsements bounds those of one root: a trust bundle takes 16.
const maxEndorsements = 16

// spread adds to trusted all members that those in it endorse, and returns one
// that is left, or nil.
func spread(members []ringMember, trusted *[]*x509.Certificate, now time.Time) (left *ringMember) {
	for grew := true; grew; {
		grew, left = false, nil
		for i := range members {
			m := &members[i]
			root, err := trust.ParseRoot(m.Root)
			switch {
			case err == nil && slices.ContainsFunc(*trusted, root.Equal):
			case err == nil && endorsed(m.Endorsements, root, *trusted, now):
				*trusted, grew = append(*trusted, root), true
			default:
				left = m
			}
		}
	}
	return left
}

// Destroy removes a KEK: no broker can unwrap anything under it any more. It
// returns [ErrNeeded] while something may still need it, of which sealed says
// how many lease handles there are under each KEK, by id. now is the time. What Redis kept in
// copies of itself is not reached: a chip of the fleet could open that.
func (r *Ring) Destroy(ctx context.Context, id string, sealed map[string]int, now time.Time) (RingChange, error) {
	return r.change(ctx, func(d *ringDocument, _ time.Time) error {
		i := slices.IndexFunc(d.KEKs, func(k ringKEK) bool { return k.ID == id })
		if i < 0 {
			return fmt.Errorf("there is no KEK %s", printableID(id))
		}
		if err := d.kekStatus(i).Free(sealed, now); err != nil {
			return err
		}
		d.KEKs = slices.Delete(d.KEKs, i, i+1)
		d.Change = "destroyed KEK " + id
		return nil
	})
}

// Free reports whether nothing needs the KEK at now, or an [ErrNeeded]. sealed
// is as for [Ring.Destroy].
func (k KEKStatus) Free(sealed map[string]int, now time.Time) error {
	switch {
	case k.Newest:
		return fmt.Errorf("%w: it is the newest; rotate first", ErrNeeded)
	case now.Sub(k.Superseded) < settle:
		return fmt.Errorf("%w: it was superseded at %s, and brokers get %s to notice", ErrNeeded, k.Superseded.UTC().Format(time.RFC3339), settle)
	case sealed[k.ID] > 0:
		return fmt.Errorf("%w: handles of %d leases are sealed under it; rewrap moves them", ErrNeeded, sealed[k.ID])
	case sealed[""] > 0:
		return fmt.Errorf("%w: handles of %d leases cannot be read, and may be sealed under it", ErrNeeded, sealed[""])
	case now.Before(k.Needed):
		return fmt.Errorf("%w: data keys under it may be unwrapped until %s", ErrNeeded, k.Needed.UTC().Format(time.RFC3339))
	}
	return nil
}

// change makes and publishes the next edition. It starts anew when another
// broker was faster.
func (r *Ring) change(ctx context.Context, edit func(*ringDocument, time.Time) error) (RingChange, error) {
	if err := r.begin(ctx); err != nil {
		return RingChange{}, err
	}
	defer r.end()
	for range changeTries {
		if err := r.report(r.look(ctx)); err != nil {
			return RingChange{}, err
		}
		c, err := r.tryChange(ctx, r.state.Load(), edit)
		if !errors.Is(err, errOvertaken) {
			return c, err
		}
	}
	return RingChange{}, fmt.Errorf("%w: other brokers keep changing the ring", broker.ErrUnavailable)
}

var errOvertaken = errors.New("another broker changed the ring at the same time")

func (r *Ring) tryChange(ctx context.Context, s *ringState, edit func(*ringDocument, time.Time) error) (RingChange, error) {
	needed, err := r.store.needed(ctx, s.KEKs)
	if err != nil {
		return RingChange{}, err
	}
	now := time.Now()
	d := s.next(r.o.URL, "", now)
	for i := range d.KEKs {
		d.KEKs[i].Needed = max(d.KEKs[i].Needed, needed[d.KEKs[i].ID])
	}
	if err := edit(d, now); err != nil {
		return RingChange{}, err
	}
	e, err := d.sign(r.o.Root, now)
	if err != nil {
		return RingChange{}, err
	}
	if err := e.follows(s.edition, now); err != nil { // as every other broker will ask
		return RingChange{}, err
	}
	switch ok, err := r.store.swap(ctx, s.head(), e); {
	case err != nil:
		return RingChange{}, err
	case !ok:
		return RingChange{}, errOvertaken
	}
	if err := r.look(ctx); err != nil {
		return RingChange{}, fmt.Errorf("version %d of the ring is in redis, but could not be taken over here: %w", e.Version, err)
	}
	return r.state.Load().change(), nil
}

// A RingStatus is what operators want to know of a [Ring].
type RingStatus struct {
	Version   uint64
	Digest    string
	Change    string
	Made      time.Time
	Members   []MemberStatus
	KEKs      []KEKStatus
	Err       error // why the ring could not be read or used at the last look
	Rollbacks int   // times that Redis had no ring, or an older one
}

// A MemberStatus is what is known of a broker of the fleet.
type MemberStatus struct {
	Fingerprint string
	Kind        string // of its root; proved by its attestation only
	Attested    bool
	Chip        bool // it showed its TPM's endorsement key when it was let in
	Self        bool
	Joined      time.Time
	By          string // fingerprint of the root that let it in
}

// A KEKStatus is what is known of a KEK.
type KEKStatus struct {
	ID         string
	Made       time.Time
	Newest     bool
	Superseded time.Time // zero if it is the newest
	Needed     time.Time // data keys wrapped under it can be unwrapped until then; before 1971: none was
}

// Status returns how things are now.
func (r *Ring) Status() RingStatus {
	r.mu.Lock()
	out := RingStatus{Err: r.err, Rollbacks: r.rollbacks}
	r.mu.Unlock()
	s := r.state.Load()
	out.describe(s.edition, r.name)
	if out.Err == nil && time.Since(s.seen) > ringFresh {
		out.Err = errStale
	}
	return out
}

func (out *RingStatus) describe(e *edition, self string) {
	out.Version, out.Digest, out.Change, out.Made = e.Version, e.digest, e.Change, time.Unix(e.Made, 0)
	for i, m := range e.Members {
		name := trust.Fingerprint(e.roots[i])
		out.Members = append(out.Members, MemberStatus{name, m.Kind, m.Attestation != nil, m.Chip, name == self, time.Unix(m.Joined, 0), m.By})
	}
	for i := range e.KEKs {
		out.KEKs = append(out.KEKs, e.kekStatus(i))
	}
}

func (d *ringDocument) kekStatus(i int) KEKStatus {
	k := d.KEKs[i]
	s := KEKStatus{ID: k.ID, Made: time.Unix(k.Made, 0), Needed: time.Unix(k.Needed, 0), Newest: i == len(d.KEKs)-1}
	if !s.Newest {
		s.Superseded = time.Unix(d.KEKs[i+1].Made, 0)
	}
	return s
}

// Bundle returns what vouches for the fleet, with these certificates of epochs.
func (r *Ring) Bundle(epochs [][]byte) *trust.Bundle {
	s := r.state.Load()
	brokers := make([]trust.Broker, len(s.Members))
	for i, m := range s.Members {
		brokers[i] = m.Broker
	}
	return trust.NewBundle(r.o.URL, brokers, epochs)
}

// wrapAll wraps every KEK of d for one more member.
func (r *Ring) wrapAll(d *ringDocument, m *ringMember, now time.Time) error {
	name, to, err := m.keys(now)
	if err != nil {
		return err
	}
	keks := r.state.Load().keks
	for i := range d.KEKs {
		k := keks[d.KEKs[i].ID]
		if k == nil {
			return fmt.Errorf("KEK %s is not known here", d.KEKs[i].ID)
		}
		d.KEKs[i].Wrapped = maps.Clone(d.KEKs[i].Wrapped)
		if d.KEKs[i].Wrapped[name], err = k.wrapFor(to, r.o.URL, name); err != nil {
			return err
		}
	}
	return nil
}
