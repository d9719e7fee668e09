package tpm

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"math/big"

	"github.com/google/go-tpm/tpm2"
)

const (
	// firstIndex and indexes are where the counter's NV index may be: the range
	// that is the owner's (TCG Registry of Reserved TPM 2.0 Handles, section 3).
	firstIndex = 0x01800000
	indexes    = 0x00400000

	counterSize = 8 // bytes
)

// counterAt is the NV index of a counter: written and read with its auth value,
// which is that of the keys. It starts where the highest counter that the TPM
// ever had stands (part 3, section 31.3), so that making it anew does not turn
// it back.
func counterAt(index tpm2.TPMHandle) tpm2.TPMSNVPublic {
	return tpm2.TPMSNVPublic{
		NVIndex:    index,
		NameAlg:    tpm2.TPMAlgSHA256,
		Attributes: tpm2.TPMANV{NT: tpm2.TPMNTCounter, AuthWrite: true, AuthRead: true},
		DataSize:   counterSize,
	}
}

// newCounter picks an index by chance, so that two roots do not meet.
func newCounter() (*tpm2.TPMSNVPublic, error) {
	n, err := rand.Int(rand.Reader, big.NewInt(indexes))
	if err != nil {
		return nil, fmt.Errorf("choosing an NV index: %w", err)
	}
	public := counterAt(tpm2.TPMHandle(firstIndex + n.Int64()))
	return &public, nil
}

func parseNV(public []byte) (*tpm2.TPMSNVPublic, error) {
	p, err := tpm2.Unmarshal[tpm2.TPMSNVPublic](public)
	if err != nil {
		return nil, fmt.Errorf("reading the counter's NV index: %w", err)
	}
	if !bytes.Equal(tpm2.Marshal(counterAt(p.NVIndex)), public) {
		return nil, errors.New("the counter's NV index has other attributes than it was to be made with")
	}
	return p, nil
}

func (id *identity) parseCounter(public []byte) (err error) {
	id.counter, err = parseNV(public)
	return err
}

// defineCounter makes the counter.
func (c *chip) defineCounter(public *tpm2.TPMSNVPublic) error {
	_, err := tpm2.NVDefineSpace{
		AuthHandle: tpm2.AuthHandle{Handle: tpm2.TPMRHOwner, Auth: c.session(nil, encryptIn())},
		Auth:       tpm2.TPM2BAuth{Buffer: c.auth.reveal()},
		PublicInfo: tpm2.New2B(*public),
	}.Execute(c.wire)
	if err != nil {
		return hierarchy("making a counter", err)
	}
	return nil
}

// undefineCounter removes a counter of ours, if it is there.
func (c *chip) undefineCounter(public *tpm2.TPMSNVPublic) error {
	there, err := tpm2.NVReadPublic{NVIndex: public.NVIndex}.Execute(c.wire)
	if errors.Is(err, tpm2.TPMRCHandle) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("looking for the counter: %w", err)
	}
	found, err := there.NVPublic.Contents()
	if err != nil {
		return fmt.Errorf("looking for the counter: %w", err)
	}
	found.Attributes.Written = false
	if !bytes.Equal(tpm2.Marshal(*found), tpm2.Marshal(*public)) {
		return nil // another's
	}
	_, err = tpm2.NVUndefineSpace{
		AuthHandle: tpm2.AuthHandle{Handle: tpm2.TPMRHOwner, Auth: c.session(nil)},
		NVIndex:    tpm2.NamedHandle{Handle: public.NVIndex, Name: there.NVName},
	}.Execute(c.wire)
	if err != nil {
		return hierarchy("removing a counter", err)
	}
	return nil
}

// nv is the counter as a loaded object. Its name changes when it is first
// written.
func nv(public *tpm2.TPMSNVPublic, written bool) (loaded, error) {
	p := *public
	p.Attributes.Written = written
	name, err := tpm2.NVName(&p)
	if err != nil {
		return loaded{}, fmt.Errorf("naming the counter: %w", err)
	}
	return loaded{p.NVIndex, *name}, nil
}

func (c *chip) increment(public *tpm2.TPMSNVPublic, written bool) error {
	l, err := nv(public, written)
	if err != nil {
		return err
	}
	_, err = tpm2.NVIncrement{AuthHandle: l.with(c.session(c.auth.reveal())), NVIndex: l.named()}.Execute(c.wire)
	return gone(err)
}

func (c *chip) count(public *tpm2.TPMSNVPublic) (uint64, error) {
	l, err := nv(public, true)
	if err != nil {
		return 0, err
	}
	rsp, err := tpm2.NVRead{
		AuthHandle: l.with(c.session(c.auth.reveal(), encryptOut())), NVIndex: l.named(), Size: counterSize,
	}.Execute(c.wire)
	if err != nil {
		return 0, gone(err)
	}
	if len(rsp.Data.Buffer) != counterSize {
		return 0, fmt.Errorf("the counter has %d bytes, want %d", len(rsp.Data.Buffer), counterSize)
	}
	return binary.BigEndian.Uint64(rsp.Data.Buffer), nil
}

// gone tells an NV index that is not there from a stale handle of a key.
func gone(err error) error {
	if errors.Is(err, tpm2.TPMRCHandle) {
		return fmt.Errorf("%w (%v)", ErrCounter, err)
	}
	return err
}

// Count implements [keys.Counter].
func (r *Root) Count(ctx context.Context) (uint64, error) {
	n, err := do(ctx, r, func(c *chip) (uint64, error) { return c.count(r.id.counter) })
	if err != nil {
		return 0, fmt.Errorf("reading the TPM's counter: %w", err)
	}
	return n, nil
}

// Increment implements [keys.Counter]. If the TPM is lost in the middle, the
// error is [ErrUnsure]. Of two processes that count at the same time, both can
// get the higher value.
func (r *Root) Increment(ctx context.Context) (uint64, error) {
	n, err := do(ctx, r, func(c *chip) (uint64, error) {
		// Finds out first whether the TPM is there, since what follows must not
		// be done twice.
		if _, err := c.count(r.id.counter); err != nil {
			return 0, err
		}
		if err := c.increment(r.id.counter, true); err != nil {
			return 0, unsure(err)
		}
		n, err := c.count(r.id.counter)
		if err != nil { // whatever it was: it has counted
			err = fmt.Errorf("%w: %w", ErrUnsure, err)
		}
		return n, err
	})
	if err != nil {
		return 0, fmt.Errorf("counting up the TPM's counter: %w", err)
	}
	return n, nil
}

// unsure says of a command that must not be sent twice that it may have been
// done, if the TPM was lost before it answered.
func unsure(err error) error {
	if !lost(err) {
		return err
	}
	return fmt.Errorf("%w: %w", ErrUnsure, err)
}
