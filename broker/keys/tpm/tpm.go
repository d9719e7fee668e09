// Package tpm keeps the root's keys in a TPM 2.0: it makes them there, where
// they cannot leave, and asks the TPM to use them.
//
//	owner hierarchy
//	 └─ storage root key        ECC P-256; the TPM makes it again at each connection
//	     ├─ root key            ECDSA P-256, certifies
//	     ├─ agreement key       ECDH P-256, opens the KEK ring
//	     └─ attestation key     restricted ECDSA P-256, says what the TPM knows of the two
//	endorsement hierarchy
//	 └─ endorsement key         by its certificate the TPM's maker vouches for the chip
//	NV index                    a counter that only goes up
//
// The state folder holds all of it but the secrets: the keys are encrypted by
// this TPM, and open on no other. To use them takes the folder, the TPM, and the
// auth value, a text of 16 to 32 bytes; and, if they are bound to PCRs, that
// those have the values of when the root was made.
//
// # An attacker on the way to the TPM
//
// Each command that uses the auth value, or carries a secret, goes through an
// HMAC session of its own, with parameter encryption (AES-128-CFB) in each
// direction that has something to hide. The session is salted to the storage
// root key that was recorded when the root was made. Who reads the bus, or
// stands between, learns no secret and can change nothing; he can make the TPM
// seem away, and by altered commands lock it.
//
// When a root is made there is no record yet: the storage root key that the TPM
// offers is believed, as an SSH client believes a host's key at first. Someone
// who stood between then has the auth value, and may hold the keys. Whether he
// did is seen afterwards: [Root.Attest] and [Root.Activate], checked against the
// certificate of the TPM's maker, hold for keys in a real chip only.
//
// # When the TPM is away
//
// One goroutine per Root talks to the TPM. It connects when there is something
// to do, and after a second without anything it takes its keys out of the TPM
// and disconnects, so that another process can have it: the socket of a software
// TPM serves one connection at a time. A TPM that was reset or restarted is used
// again without further ado. One that does not answer for five seconds gives
// [ErrHung], and the connection is given up.
package tpm

import (
	"context"
	"crypto"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"path/filepath"
	"sync"
	"time"

	"github.com/brevet-dev/brevet/broker/keys"
)

// A Root does what each of these asks.
var (
	_ keys.Root      = (*Root)(nil)
	_ keys.Attester  = (*Root)(nil)
	_ keys.Activator = (*Root)(nil)
	_ keys.Counter   = (*Root)(nil)
)

// A Config says which TPM, and where what belongs to its keys is.
type Config struct {
	// Device is the path of a character device, best /dev/tpmrm0, which several
	// programs can use; or the socket of a software TPM that takes plain TPM
	// commands: unix:PATH or tcp:HOST:PORT.
	Device string

	// State is the folder with the keys, as the TPM encrypted them. Without it
	// the root is lost. It is useless on any other machine.
	State string

	// AuthFile is the file with the auth value, 16 to 32 bytes, which may be
	// kept apart from State. "" is for one that Create makes, in State: then who
	// can read State as this machine's root can use the keys.
	AuthFile string

	// PCRs are the platform configuration registers (SHA-256 bank, 0 to 23) that
	// the root and agreement keys are bound to, with the values that they have
	// at Create; none for no binding. An update of what they measure makes the
	// keys unusable until it is undone.
	PCRs []int
}

func (c Config) validate() error {
	if c.State == "" {
		return errors.New("a TPM root needs a state folder")
	}
	return errors.Join(checkDevice(c.Device), checkPCRs(c.PCRs))
}

func (c Config) authPath() string {
	if c.AuthFile != "" {
		return c.AuthFile
	}
	return filepath.Join(c.State, authFile)
}

// A Root is a pair of keys in a TPM.
type Root struct {
	chip *chip
	id   *identity

	jobs    chan func()
	closing chan struct{}
	done    chan struct{}
	close   func()
}

// Open opens the root that [Create] made, and tries both of its keys. If there
// is none in the state folder, the error is [fs.ErrNotExist].
func Open(ctx context.Context, cfg Config) (*Root, error) {
	root, err := open(ctx, cfg)
	if err != nil {
		return nil, fmt.Errorf("opening the TPM root: %w", err)
	}
	return root, nil
}

func open(ctx context.Context, cfg Config) (*Root, error) {
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	id, err := readState(cfg.State)
	if err != nil {
		return nil, err
	}
	if !id.samePCRs(cfg.PCRs) {
		return nil, fmt.Errorf("the keys in %s are bound to other PCRs than %v; configure those that it was made with, or make a new root", cfg.State, cfg.PCRs)
	}
	auth, err := readAuth(cfg.authPath())
	if err != nil {
		return nil, err
	}
	if err := cfg.untried(); err != nil {
		return nil, err
	}
	root := start(cfg.Device, auth, id)
	switch err = root.Check(ctx); {
	case errors.Is(err, ErrAuth):
		err = errors.Join(err, cfg.remember())
	case err == nil:
		err = cfg.forget()
	}
	if err != nil {
		return nil, errors.Join(err, root.Close())
	}
	return root, nil
}

// start starts the goroutine that talks to the TPM.
func start(device string, auth secret, id *identity) *Root {
	r := &Root{
		chip: &chip{device: device, auth: auth, pcrs: id.pcrs, trust: id.storage},
		id:   id,
		jobs: make(chan func()), closing: make(chan struct{}), done: make(chan struct{}),
	}
	r.close = sync.OnceFunc(func() { close(r.closing) })
	go r.serve()
	return r
}

// serve does one job after the other, and gives the TPM away when there is none.
func (r *Root) serve() {
	defer close(r.done)
	defer r.chip.disconnect()
	idle := time.NewTimer(idleAfter)
	defer idle.Stop()
	for {
		select {
		case <-r.closing:
			return
		case job := <-r.jobs:
			job()
			r.chip.rest()
			idle.Reset(idleAfter)
		case <-idle.C:
			r.chip.disconnect()
		}
	}
}

// do has op done by the goroutine that talks to the TPM, and returns what it
// returns; or, when ctx ends first, an error at once. op may be done twice: see
// chip.do.
func do[T any](ctx context.Context, r *Root, op func(*chip) (T, error)) (T, error) {
	type result struct {
		value T
		err   error
	}
	results := make(chan result, 1) // so that nobody has to wait for it
	job := func() {
		var out result
		if out.err = ctx.Err(); out.err == nil {
			out.err = r.chip.do(func() (err error) { out.value, err = op(r.chip); return err })
		}
		results <- out
	}
	var none T
	select {
	case r.jobs <- job:
	case <-r.done:
		return none, ErrClosed
	case <-ctx.Done():
		return none, fmt.Errorf("waiting for the TPM: %w", context.Cause(ctx))
	}
	select {
	case out := <-results:
		return out.value, out.err
	case <-ctx.Done():
		return none, fmt.Errorf("waiting for the TPM: %w", context.Cause(ctx))
	}
}

// Kind returns "tpm".
func (*Root) Kind() string { return "tpm" }

// Certificate returns the self-signed certificate of the root key.
func (r *Root) Certificate() *x509.Certificate { return r.id.rootCert }

// Agreement returns the certificate of the agreement key.
func (r *Root) Agreement() *x509.Certificate { return r.id.agreementCert }

// Signer signs with the root key: SHA-256 digests only.
func (r *Root) Signer() crypto.Signer { return signer{r} }

// KeyExchanger does ECDH with the agreement key.
func (r *Root) KeyExchanger() ecdh.KeyExchanger { return exchanger{r} }

// Operations returns how many commands were sent to the TPM.
func (r *Root) Operations() uint64 { return r.chip.sent.Load() }

// Close disconnects from the TPM, after what it is doing. It may be called
// again, and returns nil.
func (r *Root) Close() error {
	r.close()
	<-r.done
	return nil
}

// Check has both keys used, and checks what comes out.
func (r *Root) Check(ctx context.Context) error {
	if err := r.checkSigning(ctx); err != nil {
		return fmt.Errorf("checking the root key: %w", err)
	}
	if err := r.checkAgreement(ctx); err != nil {
		return fmt.Errorf("checking the agreement key: %w", err)
	}
	return nil
}

func (r *Root) checkSigning(ctx context.Context) error {
	pub, err := r.id.root.ecdsa()
	if err != nil {
		return err
	}
	digest := sha256.Sum256([]byte("brevet: is the root key there? " + rand.Text()))
	signature, err := r.sign(ctx, digest[:])
	if err != nil {
		return err
	}
	if !ecdsa.VerifyASN1(pub, digest[:], signature) {
		return errors.New("the TPM signed with another key")
	}
	return nil
}

func (r *Root) checkAgreement(ctx context.Context) error {
	pub, err := r.id.agreement.ecdh()
	if err != nil {
		return err
	}
	other, err := ecdh.P256().GenerateKey(rand.Reader)
	if err != nil {
		return err
	}
	want, err := other.ECDH(pub)
	if err != nil {
		return err
	}
	got, err := r.agree(ctx, other.PublicKey())
	if err == nil && string(got) != string(want) {
		err = errors.New("the TPM agreed on another secret")
	}
	return err
}
