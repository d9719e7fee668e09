// Package pkcs11 keeps a broker's root in an HSM that speaks PKCS#11 (OASIS,
// v2.40 or later): two key pairs on P-256, made in the token, sensitive and
// never extractable, and their certificates in a folder beside.
//
//	brevetd ── pipes, package wire ── brevetd-pkcs11 ── dlopen ── the vendor's library ── HSM
//
// The vendor's library is C code of unknown quality, so it runs in a process of
// its own, which sees digests, public keys, shared secrets and the PIN, and
// never a KEK. brevetd stays a program without cgo. When the library hangs or
// crashes, that process is killed, and the next use starts another.
//
// # What is believed
//
// Nothing is taken on trust that can be checked. At every login the token must
// say of both keys that they were made in it, are sensitive and always were, and
// are not extractable and never were; that they are those of the certificates;
// and that neither can do the other's work. [Open] has both prove it: one
// signature, one key agreement. Every signature is verified in software before
// it leaves this package, so that an HSM with a fault puts none into a
// certificate, where it could even tell the key.
//
// PKCS#11 knows no attestation that all vendors share: that the token is an HSM
// and not a program that says so is for the operator to know.
//
// # PINs
//
// Tokens lock after a few wrong PINs. A PIN that was refused is not tried again:
// not by this process, and by none until its file changes. And no PIN is tried
// when the token says that one more wrong one locks it. The PIN is read from its file at each login, goes through a pipe,
// and is wiped; it is in no argument, environment or error.
package pkcs11

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"github.com/brevet-dev/brevet/broker/keys/pkcs11/wire"
	"github.com/brevet-dev/brevet/broker/keys/trust"
)

// patience is how long a user of the keys waits, in the queue of others and for
// a new helper process included.
const patience = 10 * time.Second

// A Root is a root whose keys are in an HSM. It implements keys.Root.
type Root struct {
	owner     *owner
	certs     *certificates
	signer    *signer
	exchanger *exchanger
}

// Create makes both keys in the token and their certificates in the folder
// State, and opens them. It returns [fs.ErrExist] if there are certificates in
// State, or keys in the token, already. If it returns an error, it has
// destroyed what it made, or the error says what is left.
func Create(ctx context.Context, c Config, now time.Time) (*Root, error) {
	if err := c.validate(); err != nil {
		return nil, err
	}
	if err := c.vacant(); err != nil {
		return nil, err
	}
	id := make([]byte, 16) // CKA_ID: to destroy these keys and no other
	rand.Read(id)          // never fails: crypto/rand.Read, Go 1.24
	touched, err := c.generate(ctx, id, now)
	if err == nil {
		var r *Root
		if r, err = Open(ctx, c); err == nil {
			return r, nil
		}
		err = errors.Join(err, c.removeCertificates())
	}
	if touched {
		err = errors.Join(err, c.undo(ctx, id))
	}
	return nil, fmt.Errorf("making a root in the HSM: %w", err)
}

// generate makes keys and certificates. touched says that there may be keys in
// the token.
func (c *Config) generate(ctx context.Context, id []byte, now time.Time) (touched bool, err error) {
	o := newOwner(c, true, nil)
	defer o.close()
	p, err := o.do(ctx, &wire.Request{Op: wire.Check})
	if err != nil {
		return false, err
	}
	if len(p.Keys.Private)+len(p.Keys.Public) > 0 {
		return false, fmt.Errorf("the token %q has a %q or %q already: open it with the certificates that were made with it, or take another token: %w",
			c.Token, wire.RootLabel, wire.AgreementLabel, fs.ErrExist)
	}
	if p, err = o.do(ctx, &wire.Request{Op: wire.Generate, ID: id}); err != nil {
		return true, err
	}
	certs, err := certify(ctx, o, p.Keys, now)
	if err != nil {
		return true, err
	}
	return true, c.writeCertificates(certs)
}

// certify makes the certificates of the keys.
func certify(ctx context.Context, o *owner, all *wire.Keys, now time.Time) (*certificates, error) {
	root, agreement, err := publicKeys(all)
	if err != nil {
		return nil, err
	}
	s := &signer{o, root}
	certs := &certificates{}
	if certs.root, err = trust.NewRoot(s, now); err != nil {
		return nil, err
	}
	if certs.agreement, err = trust.NewAgreement(certs.root, s, agreement); err != nil {
		return nil, err
	}
	return certs, ctx.Err()
}

// undo destroys the keys with an ID, in a process of its own, whatever the state
// of the one that made them.
func (c *Config) undo(ctx context.Context, id []byte) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*patience)
	defer cancel()
	o := newOwner(c, true, nil)
	defer o.close()
	if _, err := o.do(ctx, &wire.Request{Op: wire.Destroy, ID: id}); err != nil {
		return fmt.Errorf("destroying the keys made so far: %w; keys with CKA_ID %s may be left in the token: remove them with pkcs11-tool --delete-object",
			err, hex.EncodeToString(id))
	}
	return nil
}

// Open opens the root whose certificates are in the folder State. It returns
// [fs.ErrNotExist] if there are none, and only then; [ErrKeys] if the token's
// keys are others, or are not as the package comment says.
func Open(ctx context.Context, c Config) (*Root, error) {
	if err := c.validate(); err != nil {
		return nil, err
	}
	certs, err := c.readCertificates()
	if err != nil {
		return nil, err
	}
	o := newOwner(&c, false, func(all *wire.Keys) error { return certs.match(all, &c) })
	r := &Root{o, certs, &signer{o, certs.rootKey()}, &exchanger{o, certs.agreementKey}}
	if err := r.prove(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("opening the root in the HSM: %w", err), r.Close())
	}
	return r, nil
}

// prove has both keys work once: a public key in a token is no proof of the
// private one.
func (r *Root) prove(ctx context.Context) error {
	digest := make([]byte, 32)
	rand.Read(digest)
	if _, err := r.signer.sign(ctx, digest); err != nil {
		return fmt.Errorf("making a test signature: %w", err)
	}
	own, err := ecdh.P256().GenerateKey(rand.Reader)
	if err != nil {
		return err
	}
	want, err := own.ECDH(r.certs.agreementKey)
	if err != nil {
		return err
	}
	got, err := r.exchanger.agree(ctx, own.PublicKey())
	if err != nil {
		return fmt.Errorf("making a test agreement: %w", err)
	}
	if !bytes.Equal(got, want) {
		return fmt.Errorf("%w: the private key %q is not that of its certificate", ErrKeys, wire.AgreementLabel)
	}
	return nil
}

// Kind returns "pkcs11".
func (*Root) Kind() string { return "pkcs11" }

// Certificate returns the root's self-signed certificate.
func (r *Root) Certificate() *x509.Certificate { return r.certs.root }

// Signer signs SHA-256 digests with the root key.
func (r *Root) Signer() crypto.Signer { return r.signer }

// Agreement returns the certificate of the ECDH key.
func (r *Root) Agreement() *x509.Certificate { return r.certs.agreement }

// KeyExchanger does ECDH with the key of Agreement.
func (r *Root) KeyExchanger() ecdh.KeyExchanger { return r.exchanger }

// Check asks the token whether the user is logged in and both keys are there.
func (r *Root) Check(ctx context.Context) error {
	p, err := r.owner.do(ctx, &wire.Request{Op: wire.Check})
	if err == nil {
		err = r.owner.verify(p.Keys)
	}
	if err != nil {
		return fmt.Errorf("checking the HSM: %w", err)
	}
	return nil
}

// Operations returns how many requests the HSM's library was sent since [Open].
func (r *Root) Operations() uint64 { return r.owner.operations.Load() }

// Close ends the helper process, and with it the session. What is asked later
// is refused with [ErrClosed].
func (r *Root) Close() error {
	r.owner.close()
	return nil
}

// certificates are what the folder State holds.
type certificates struct {
	root, agreement *x509.Certificate
	agreementKey    *ecdh.PublicKey
}

func (c *certificates) rootKey() *ecdsa.PublicKey {
	return c.root.PublicKey.(*ecdsa.PublicKey) // package trust saw to the type
}
