package tpm

import (
	"bytes"
	"crypto"
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"fmt"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"
)

// Where a TPM keeps the certificates of its endorsement keys, and their keys
// if they are kept loaded: TCG EK Credential Profile, sections 2.2.1.4, 2.2.1.5.
const (
	rsaCertIndex = 0x01C00002
	eccCertIndex = 0x01C0000A
	chainFirst   = 0x01C00100
	chainLast    = 0x01C001FF

	rsaHandle = 0x81010001
	eccHandle = 0x81010002

	// maxChain bounds what is read of it: makers have two or three.
	maxChain = 8

	// readSize is how much of an NV index is read at once: every TPM can do
	// that.
	readSize = 512
)

// An ekKind is one of the two endorsement keys that a TPM may have.
type ekKind struct {
	template   tpm2.TPMTPublic
	certIndex  tpm2.TPMHandle
	persistent tpm2.TPMHandle
}

// ekKinds are the TCG's default templates (EK Credential Profile, appendix B),
// the preferred one first.
func ekKinds() []ekKind {
	return []ekKind{
		{tpm2.ECCEKTemplate, eccCertIndex, eccHandle},
		{tpm2.RSAEKTemplate, rsaCertIndex, rsaHandle},
	}
}

func kindOf(ek *key) ekKind {
	kinds := ekKinds()
	if ek.public.Type == tpm2.TPMAlgRSA {
		return kinds[1]
	}
	return kinds[0]
}

// parseEK reads the public part of an endorsement key of either kind.
func parseEK(public []byte) (*key, error) {
	ecc, err := parseKey(public, tpm2.ECCEKTemplate)
	if err == nil {
		return ecc, nil
	}
	rsa, err := parseKey(public, tpm2.RSAEKTemplate)
	if err != nil {
		return nil, fmt.Errorf("the endorsement key is of neither template of the TCG: %w", err)
	}
	return rsa, nil
}

// findEK returns the endorsement key that has a certificate in the TPM, with the
// certificate and what follows it; or, when neither has, the one on P-256.
func (c *chip) findEK() (*key, [][]byte, error) {
	for _, kind := range ekKinds() {
		chain, err := c.readCertificates(kind.certIndex)
		if err != nil {
			return nil, nil, err
		}
		if len(chain) == 0 {
			continue
		}
		ek, err := c.publicEK(kind)
		if err != nil {
			return nil, nil, err
		}
		if certifies(chain[0], ek) {
			return ek, chain, nil
		}
	}
	ek, err := c.publicEK(ekKinds()[0])
	return ek, nil, err
}

// certifies reports whether a certificate is of an endorsement key. A TPM whose
// maker used another template has one that is not.
func certifies(der []byte, ek *key) bool {
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return false
	}
	pub, err := tpm2.Pub(ek.public)
	if err != nil {
		return false
	}
	own, ok := pub.(interface{ Equal(crypto.PublicKey) bool })
	return ok && own.Equal(cert.PublicKey)
}

func (c *chip) publicEK(kind ekKind) (*key, error) {
	l, k, err := c.loadEK(kind)
	if err != nil {
		return nil, err
	}
	return k, c.unloadEK(l)
}

// loadEK returns the endorsement key: the one that is kept loaded, or else made
// again.
func (c *chip) loadEK(kind ekKind) (loaded, *key, error) {
	rsp, err := tpm2.ReadPublic{ObjectHandle: kind.persistent}.Execute(c.wire)
	if err == nil {
		if k, err := parseKey(rsp.OutPublic.Bytes(), kind.template); err == nil {
			return loaded{kind.persistent, k.name}, k, nil
		}
	}
	if err := c.makeRoom(); err != nil {
		return loaded{}, nil, err
	}
	c.wire.within = primesWithin
	made, err := tpm2.CreatePrimary{PrimaryHandle: tpm2.TPMRHEndorsement, InPublic: tpm2.New2B(kind.template)}.Execute(c.wire)
	c.wire.within = answerWithin
	if err != nil {
		return loaded{}, nil, hierarchy("loading the endorsement key", err)
	}
	k, err := parseKey(made.OutPublic.Bytes(), kind.template)
	if err != nil {
		return loaded{}, nil, errors.Join(fmt.Errorf("loading the endorsement key: %w", err), c.flush(made.ObjectHandle))
	}
	return loaded{made.ObjectHandle, k.name}, k, nil
}

func (c *chip) unloadEK(l loaded) error {
	if l.handle == rsaHandle || l.handle == eccHandle {
		return nil
	}
	return c.flush(l.handle)
}

// satisfyEK does what the policy of endorsement keys demands: to know the
// password of their hierarchy, which is empty.
func satisfyEK(t transport.TPM, session tpm2.TPMISHPolicy, nonce tpm2.TPM2BNonce) error {
	_, err := tpm2.PolicySecret{
		AuthHandle:    tpm2.AuthHandle{Handle: tpm2.TPMRHEndorsement, Auth: tpm2.PasswordAuth(nil)},
		PolicySession: session,
		NonceTPM:      nonce,
	}.Execute(t)
	if err != nil {
		return hierarchy("using the endorsement key", err)
	}
	return nil
}

// readCertificates returns the certificate at an index, and the intermediate
// ones of the TPM's maker; nothing if there is none. Nothing vouches for them
// but themselves.
func (c *chip) readCertificates(index tpm2.TPMHandle) ([][]byte, error) {
	present, err := c.handles(index)
	if err != nil {
		return nil, fmt.Errorf("looking for endorsement certificates: %w", err)
	}
	if len(present) == 0 || present[0] != index {
		return nil, nil
	}
	leaf, err := c.readNV(index)
	if err != nil {
		return nil, err
	}
	leaf, _, err = cut(leaf)
	if err != nil {
		return nil, nil // not a certificate: as good as none
	}
	rest, err := c.readChain()
	return append([][]byte{leaf}, rest...), err
}

// readChain reads the intermediate certificates: one after the other, over as
// many indexes as they take.
func (c *chip) readChain() ([][]byte, error) {
	present, err := c.handles(chainFirst)
	if err != nil {
		return nil, fmt.Errorf("looking for endorsement certificates: %w", err)
	}
	var all []byte
	for _, index := range present {
		if index > chainLast {
			break
		}
		part, err := c.readNV(index)
		if err != nil {
			return nil, err
		}
		all = append(all, part...)
	}
	var chain [][]byte
	for len(all) > 0 && len(chain) < maxChain {
		cert, rest, err := cut(all)
		if err != nil {
			break // padding
		}
		chain, all = append(chain, cert), rest
	}
	return chain, nil
}

// cut cuts off the first certificate: makers pad what follows it.
func cut(data []byte) (cert, rest []byte, err error) {
	var raw asn1.RawValue
	rest, err = asn1.Unmarshal(data, &raw)
	if err == nil {
		_, err = x509.ParseCertificate(raw.FullBytes)
	}
	return bytes.Clone(raw.FullBytes), rest, err
}

// maxNV bounds an NV index that is read.
const maxNV = 8 << 10

// readNV reads an NV index that anyone may read.
func (c *chip) readNV(index tpm2.TPMHandle) ([]byte, error) {
	rsp, err := tpm2.NVReadPublic{NVIndex: index}.Execute(c.wire)
	if err != nil {
		return nil, fmt.Errorf("reading NV index %#x: %w", index, err)
	}
	public, err := rsp.NVPublic.Contents()
	if err != nil || public.DataSize > maxNV {
		return nil, fmt.Errorf("reading NV index %#x: larger than %d bytes, or unreadable", index, maxNV)
	}
	by := tpm2.AuthHandle{Handle: index, Name: rsp.NVName, Auth: tpm2.PasswordAuth(nil)}
	if !public.Attributes.AuthRead {
		by = tpm2.AuthHandle{Handle: tpm2.TPMRHOwner, Auth: tpm2.PasswordAuth(nil)}
	}
	var data []byte
	for len(data) < int(public.DataSize) {
		part, err := tpm2.NVRead{
			AuthHandle: by,
			NVIndex:    tpm2.NamedHandle{Handle: index, Name: rsp.NVName},
			Size:       min(readSize, public.DataSize-uint16(len(data))),
			Offset:     uint16(len(data)),
		}.Execute(c.wire)
		if err != nil {
			return nil, hierarchy(fmt.Sprintf("reading NV index %#x", index), err)
		}
		if len(part.Data.Buffer) == 0 {
			return nil, fmt.Errorf("reading NV index %#x: nothing came", index)
		}
		data = append(data, part.Data.Buffer...)
	}
	return data, nil
}
