package tpm

import (
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"github.com/google/go-tpm/tpm2"
)

const (
	// idleAfter is when a connection that nobody uses is given up, so that
	// another process can have the TPM.
	idleAfter = time.Second

	// holdFor is when one that is in use all the time is.
	holdFor = 2 * time.Second

	// slots is how many keys are kept loaded beside the storage root key: a TPM
	// need not have room for more than three (PC Client Platform TPM Profile,
	// MAX_LOADED_OBJECTS).
	slots = 2

	// attempts is how often an operation is tried when the TPM was reset, or
	// was full of what a killed process left. Each has a cause of its own, and
	// all three can come together.
	attempts = 4
)

// A chip is the connection to a TPM, and what is loaded in it for us. It belongs
// to one goroutine.
type chip struct {
	device string
	auth   secret
	pcrs   []pcr
	trust  *key // the storage root key as recorded when the root was made; nil until then
	sent   atomic.Uint64

	wire    *wire // nil while not connected
	since   time.Time
	storage loaded
	keys    []loaded // at most slots; the one used last at the end
	refused error    // ErrAuth, once the TPM refused the auth value
}

// A loaded is an object in the TPM.
type loaded struct {
	handle tpm2.TPMHandle
	name   tpm2.TPM2BName
}

func (l loaded) named() tpm2.NamedHandle { return tpm2.NamedHandle{Handle: l.handle, Name: l.name} }

func (l loaded) with(s tpm2.Session) tpm2.AuthHandle {
	return tpm2.AuthHandle{Handle: l.handle, Name: l.name, Auth: s}
}

// do connects, if need be, and does op: again, if the TPM was reset or restarted
// meanwhile. So op must be one that may be done twice, or return [ErrUnsure].
func (c *chip) do(op func() error) error {
	if c.refused != nil {
		return fmt.Errorf("not tried again: %w", c.refused)
	}
	var err error
	for range attempts {
		if err = c.attempt(op); err == nil || !c.cure(err) {
			break
		}
	}
	err = c.named(err)
	if errors.Is(err, ErrAuth) {
		c.refused = err
	}
	if lost(err) {
		c.disconnect()
	}
	return err
}

func (c *chip) attempt(op func() error) error {
	if err := c.connect(); err != nil {
		return err
	}
	return op()
}

// cure reports whether the operation should be tried again, and prepares it.
func (c *chip) cure(err error) bool {
	switch {
	case errors.Is(err, ErrUnsure), errors.Is(err, ErrHung):
		return false
	case c.wire == nil, c.wire.broken != nil, stale(err):
		c.disconnect()
		return true
	case !isSocket(c.device):
		return false // others use it, too: nothing of it is ours to change
	case errors.Is(err, tpm2.TPMRCInitialize):
		return c.startUp() == nil
	case errors.Is(err, tpm2.TPMRCObjectMemory), noSession(err):
		return c.flushAll() == nil
	}
	return false
}

func (c *chip) startUp() error {
	c.forget()
	_, err := tpm2.Startup{StartupType: tpm2.TPMSUClear}.Execute(c.wire)
	return err
}

// flushAll removes every transient object and session from a software TPM:
// those of a process that was killed. What is in use belongs to us, since no
// other can be connected.
func (c *chip) flushAll() error {
	c.forget()
	for _, first := range []tpm2.TPMHandle{0x80000000, 0x02000000, 0x03000000} { // part 2, section 7.2: transient objects, sessions loaded, sessions saved
		handles, err := c.handles(first)
		if err != nil {
			return err
		}
		for _, h := range handles {
			if first == 0x03000000 { // a saved session is listed so, and flushed as what it was
				h = h&0x00ffffff | 0x02000000
			}
			if _, err := (tpm2.FlushContext{FlushHandle: h}).Execute(c.wire); err != nil && c.wire.broken != nil {
				return err
			}
		}
	}
	return nil
}

func (c *chip) handles(first tpm2.TPMHandle) ([]tpm2.TPMHandle, error) {
	rsp, err := tpm2.GetCapability{Capability: tpm2.TPMCapHandles, Property: uint32(first), PropertyCount: 64}.Execute(c.wire)
	if err != nil {
		return nil, err
	}
	list, err := rsp.CapabilityData.Data.Handles()
	if err != nil {
		return nil, err
	}
	return list.Handle, nil
}

// connect connects, and loads the storage root key.
func (c *chip) connect() error {
	if c.wire == nil {
		l, err := dial(c.device)
		if err != nil {
			return err
		}
		c.wire, c.since = &wire{link: l, within: answerWithin, sent: &c.sent}, time.Now()
	}
	if c.storage.handle != 0 {
		return nil
	}
	return c.loadStorage()
}

// loadStorage makes the storage root key, which a TPM makes the same each time.
// That it is the one recorded is what keeps an attacker between us and the TPM
// out: sessions are salted to it.
func (c *chip) loadStorage() error {
	template := storageTemplate()
	rsp, err := tpm2.CreatePrimary{PrimaryHandle: tpm2.TPMRHOwner, InPublic: tpm2.New2B(template)}.Execute(c.wire)
	if err != nil {
		return hierarchy("loading the storage root key", err)
	}
	made, err := parseKey(rsp.OutPublic.Bytes(), template)
	if err == nil && c.trust != nil && !slices.Equal(made.name.Buffer, c.trust.name.Buffer) {
		err = fmt.Errorf("%w (its storage root key differs)", ErrOtherTPM)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("loading the storage root key: %w", err), c.flush(rsp.ObjectHandle))
	}
	c.trust = made
	c.storage = loaded{rsp.ObjectHandle, made.name}
	return nil
}

// hierarchy tells a hierarchy's password from the auth value of our keys.
func hierarchy(doing string, err error) error {
	if errors.Is(err, tpm2.TPMRCBadAuth) || errors.Is(err, tpm2.TPMRCAuthFail) {
		return fmt.Errorf("%s: %w (%w)", doing, ErrHierarchy, err)
	}
	return fmt.Errorf("%s: %w", doing, err)
}

// forget drops the handles, when they mean nothing any more.
func (c *chip) forget() { c.storage, c.keys = loaded{}, nil }

// disconnect takes what is ours out of the TPM, as far as it still answers, and
// closes the connection.
func (c *chip) disconnect() {
	if c.wire == nil {
		return
	}
	for _, l := range append(c.keys, c.storage) {
		if l.handle != 0 && c.flush(l.handle) != nil {
			break
		}
	}
	if isSocket(c.device) && c.wire.broken == nil {
		// Else a software TPM that is stopped now takes it for an attempt at
		// guessing the auth value. The kernel does this for a chip. An error
		// changes nothing here.
		tpm2.Shutdown{ShutdownType: tpm2.TPMSUClear}.Execute(c.wire)
	}
	c.wire.link.Close()
	c.forget()
	c.wire = nil
}

func (c *chip) flush(h tpm2.TPMHandle) error {
	_, err := tpm2.FlushContext{FlushHandle: h}.Execute(c.wire)
	return err
}

// rest gives the TPM to others if we had it for long.
func (c *chip) rest() {
	if isSocket(c.device) && time.Since(c.since) > holdFor {
		c.disconnect()
	}
}

// load returns a key of ours, loaded.
func (c *chip) load(k *key) (loaded, error) {
	i := slices.IndexFunc(c.keys, func(l loaded) bool { return slices.Equal(l.name.Buffer, k.name.Buffer) })
	if i >= 0 {
		l := c.keys[i]
		c.keys = append(slices.Delete(c.keys, i, i+1), l)
		return l, nil
	}
	if err := c.makeRoom(); err != nil {
		return loaded{}, err
	}
	rsp, err := tpm2.Load{
		ParentHandle: c.storage.named(),
		InPrivate:    tpm2.TPM2BPrivate{Buffer: k.private},
		InPublic:     tpm2.New2B(k.public),
	}.Execute(c.wire)
	if errors.Is(err, tpm2.TPMRCIntegrity) {
		err = fmt.Errorf("%w, or the file with it was altered (%w)", ErrOtherTPM, err)
	}
	if err != nil {
		return loaded{}, fmt.Errorf("loading a key: %w", err)
	}
	l := loaded{rsp.ObjectHandle, k.name} // the name that we know, not the one we are told
	c.keys = append(c.keys, l)
	return l, nil
}

// makeRoom sees to a free slot.
func (c *chip) makeRoom() error {
	for len(c.keys) >= slots {
		if err := c.flush(c.keys[0].handle); err != nil {
			return fmt.Errorf("unloading a key: %w", err)
		}
		c.keys = c.keys[1:]
	}
	return nil
}

// session is for one command: authorized by auth, and salted, so that only the
// TPM with the storage root key can have understood it and answered.
func (c *chip) session(auth []byte, options ...tpm2.AuthOption) tpm2.Session {
	return tpm2.HMAC(tpm2.TPMAlgSHA256, nonceSize, c.salted(auth, options)...)
}

const nonceSize = 16 // bytes; at least half the hash (part 1, section 19.6)

func (c *chip) salted(auth []byte, options []tpm2.AuthOption) []tpm2.AuthOption {
	return append(options, tpm2.Salted(c.storage.handle, c.trust.public), tpm2.Auth(auth))
}

// use is a session for the use of one of our keys: as its policy demands.
func (c *chip) use(options ...tpm2.AuthOption) tpm2.Session {
	if len(c.pcrs) == 0 {
		return c.session(c.auth.reveal(), options...)
	}
	return tpm2.Policy(tpm2.TPMAlgSHA256, nonceSize, c.satisfy, c.salted(c.auth.reveal(), options)...)
}

// Both directions, or one where the other's first parameter cannot be encrypted
// (part 1, section 21).
func encryptBoth() tpm2.AuthOption { return tpm2.AESEncryption(128, tpm2.EncryptInOut) }
func encryptIn() tpm2.AuthOption   { return tpm2.AESEncryption(128, tpm2.EncryptIn) }
func encryptOut() tpm2.AuthOption  { return tpm2.AESEncryption(128, tpm2.EncryptOut) }

// unloadAllBut takes our other keys out of the TPM. What it cannot flush it was
// told to forget by a reset.
func (c *chip) unloadAllBut(k *key) {
	c.keys = slices.DeleteFunc(c.keys, func(l loaded) bool {
		return !slices.Equal(l.name.Buffer, k.name.Buffer) && c.flush(l.handle) == nil
	})
}
