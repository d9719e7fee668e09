package tpm

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/google/go-tpm/tpm2"

	"github.com/brevet-dev/brevet/broker/keys"
	"github.com/brevet-dev/brevet/broker/keys/trust"
)

const (
	// planFile holds the NV index (TPMS_NV_PUBLIC) that is going to be the
	// counter, so that it can be removed if Create is killed.
	planFile = "plan"

	// cleanWithin bounds removing what a Create that did not succeed has made.
	cleanWithin = 2 * answerWithin

	// indexTries is how many indexes are tried: that two are taken by chance
	// does not happen.
	indexTries = 4
)

// Create makes a root in the TPM and keeps it in a new state folder. It is
// whole or not there at all: everything is put beside it in a folder State.new,
// which takes the place of State at the end. If that holds anything already, the
// error is [fs.ErrExist]: a root is never overwritten.
func Create(ctx context.Context, cfg Config, now time.Time) (*Root, error) {
	root, err := create(ctx, cfg, now)
	if err != nil {
		return nil, fmt.Errorf("making a TPM root: %w", err)
	}
	return root, nil
}

func create(ctx context.Context, cfg Config, now time.Time) (*Root, error) {
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	auth := newAuth()
	if cfg.AuthFile != "" {
		var err error
		if auth, err = readAuth(cfg.AuthFile); err != nil {
			return nil, err
		}
	}
	d, err := newDraft(cfg.State)
	if err != nil {
		return nil, err
	}
	defer d.unlock()
	root := start(cfg.Device, auth, &identity{})
	if err = d.make(ctx, root, cfg, now); err == nil {
		err = d.finish(root.id, auth, cfg)
	}
	if err != nil {
		return nil, errors.Join(err, d.undo(ctx, root), root.Close())
	}
	return root, nil
}

// A draft is a state folder in the making.
type draft struct {
	state string   // where it is going to be
	path  string   // where it is
	lock  *os.File // of path; the kernel lets go of it when the process ends
}

// newDraft makes State.new, or takes over the one of a Create that was killed.
func newDraft(state string) (*draft, error) {
	if entries, err := os.ReadDir(state); len(entries) > 0 {
		return nil, fmt.Errorf("%s is not empty: %w", state, fs.ErrExist)
	} else if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	d := &draft{state: filepath.Clean(state), path: filepath.Clean(state) + ".new"}
	if err := os.MkdirAll(d.path, 0o700); err != nil {
		return nil, err
	}
	return d, d.take()
}

// take locks the folder against another Create.
func (d *draft) take() error {
	f, err := os.Open(d.path)
	if err != nil {
		return err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		return errors.Join(fmt.Errorf("another process is making a root in %s: %w", d.path, err), f.Close())
	}
	locked, err := f.Stat()
	there, err2 := os.Stat(d.path)
	if err = errors.Join(err, err2); err == nil && !os.SameFile(locked, there) {
		err = fmt.Errorf("another process has just made a root in %s: %w", d.state, fs.ErrExist)
	}
	if err == nil {
		err = keys.CheckMode(d.path, there, "700")
	}
	if err != nil {
		return errors.Join(err, f.Close())
	}
	d.lock = f
	return nil
}

func (d *draft) unlock() { d.lock.Close() }

// make makes the keys, their certificates and the counter, and tries them.
func (d *draft) make(ctx context.Context, r *Root, cfg Config, now time.Time) error {
	if err := d.clean(ctx, r); err != nil {
		return err
	}
	if err := r.makeKeys(ctx, cfg.PCRs); err != nil {
		return err
	}
	if err := r.makeCertificates(now); err != nil {
		return err
	}
	if err := d.makeCounter(ctx, r); err != nil {
		return err
	}
	return r.Check(ctx)
}

// clean removes what is in the folder and, as planned there, in the TPM: by an
// earlier Create that was killed, or by this one.
func (d *draft) clean(ctx context.Context, r *Root) error {
	plan, err := os.ReadFile(filepath.Join(d.path, planFile))
	if err == nil {
		if public, err := parseNV(plan); err == nil { // else it was killed while it wrote that
			if err := r.undefine(ctx, public); err != nil {
				return err
			}
		}
	}
	entries, err := os.ReadDir(d.path)
	for _, e := range entries {
		err = errors.Join(err, os.Remove(filepath.Join(d.path, e.Name())))
	}
	return err
}

func (r *Root) undefine(ctx context.Context, public *tpm2.TPMSNVPublic) error {
	return r.command(ctx, func(c *chip) error { return c.undefineCounter(public) })
}

// makeKeys makes the keys. The private parts are in r.id only, so that a retry
// leaves nothing behind.
func (r *Root) makeKeys(ctx context.Context, pcrs []int) error {
	id, err := do(ctx, r, func(c *chip) (*identity, error) { return c.makeIdentity(pcrs) })
	if err != nil {
		return err
	}
	r.id = id
	return nil
}

func (c *chip) makeIdentity(indexes []int) (*identity, error) {
	pcrs, err := c.readPCRs(indexes)
	if err != nil {
		return nil, err
	}
	policy, err := policyOf(pcrs)
	if err != nil {
		return nil, err
	}
	id := &identity{storage: c.trust, pcrs: pcrs}
	for _, k := range []struct {
		to       **key
		template tpm2.TPMTPublic
	}{{&id.root, signTemplate(policy)}, {&id.agreement, agreeTemplate(policy)}, {&id.ak, attestTemplate()}} {
		if *k.to, err = c.create(k.template); err != nil {
			return nil, err
		}
	}
	if id.ek, id.ekChain, err = c.findEK(); err != nil {
		return nil, err
	}
	c.pcrs = pcrs
	return id, nil
}

func (r *Root) makeCertificates(now time.Time) error {
	var err error
	if r.id.rootCert, err = trust.NewRoot(r.Signer(), now); err != nil {
		return err
	}
	r.id.agreementCert, err = trust.NewAgreement(r.id.rootCert, r.Signer(), r.KeyExchanger().PublicKey())
	return err
}

// makeCounter makes the counter, and counts once: before that it has no value.
func (d *draft) makeCounter(ctx context.Context, r *Root) error {
	public, err := r.freeCounter(ctx)
	if err != nil {
		return err
	}
	if err := write(filepath.Join(d.path, planFile), tpm2.Marshal(*public)); err != nil {
		return err
	}
	if err := keys.SyncDir(d.path); err != nil {
		return err
	}
	r.id.counter = public // from here on it may be there
	if err := r.command(ctx, func(c *chip) error { return unsure(c.defineCounter(public)) }); err != nil {
		return err
	}
	return r.command(ctx, func(c *chip) error { return unsure(c.increment(public, false)) })
}

// freeCounter returns a counter at an index that is free. It is looked for
// before it is planned, so that no other root's is removed for ours.
func (r *Root) freeCounter(ctx context.Context) (*tpm2.TPMSNVPublic, error) {
	for range indexTries {
		public, err := newCounter()
		if err != nil {
			return nil, err
		}
		next, err := do(ctx, r, func(c *chip) ([]tpm2.TPMHandle, error) { return c.handles(public.NVIndex) })
		if err != nil {
			return nil, err
		}
		if len(next) == 0 || next[0] != public.NVIndex {
			return public, nil
		}
	}
	return nil, errors.New("no NV index is free in the TPM")
}

// command is do for what returns nothing.
func (r *Root) command(ctx context.Context, op func(*chip) error) error {
	_, err := do(ctx, r, func(c *chip) (struct{}, error) { return struct{}{}, op(c) })
	return err
}

// finish writes the state, and puts the folder in its place.
func (d *draft) finish(id *identity, auth secret, cfg Config) error {
	data, err := id.encode()
	if err != nil {
		return fmt.Errorf("encoding the state: %w", err)
	}
	if cfg.AuthFile == "" {
		if err := write(filepath.Join(d.path, authFile), auth.reveal()); err != nil {
			return err
		}
	}
	if err := write(filepath.Join(d.path, rootFile), data); err != nil {
		return err
	}
	if err := keys.SyncDir(d.path); err != nil {
		return err
	}
	// Not os.Rename, which refuses an empty folder at State. It fails where State
	// has come to hold something.
	if err := syscall.Rename(d.path, d.state); err != nil {
		return fmt.Errorf("putting %s in the place of %s: %v", d.path, d.state, err) // not as fs.ErrExist: there is no root
	}
	d.path = d.state
	if err := keys.SyncDir(filepath.Dir(d.state)); err != nil {
		return err
	}
	// Last: as long as something can fail, the counter has to be found. Open
	// does not mind a plan that a power cut left here.
	os.Remove(filepath.Join(d.path, planFile))
	return nil
}

// undo removes everything again. When the TPM is away the plan stays, and the
// next Create removes the counter.
func (d *draft) undo(ctx context.Context, r *Root) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanWithin)
	defer cancel()
	if err := d.clean(ctx, r); err != nil {
		return fmt.Errorf("removing what was made (the next attempt to make a root in %s does it): %w", d.state, err)
	}
	return os.Remove(d.path)
}

// write writes a file that is its owner's alone, durably.
func write(path string, data []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	return errors.Join(err, f.Sync(), f.Close())
}
