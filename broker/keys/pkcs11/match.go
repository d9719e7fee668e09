package pkcs11

import (
	"bytes"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/elliptic"
	"fmt"

	"github.com/brevet-dev/brevet/broker/keys/pkcs11/wire"
)

// match checks that the keys in the token are those of the certificates.
func (c *certificates) match(all *wire.Keys, at *Config) error {
	root, agreement, err := publicKeys(all)
	if err != nil {
		return err
	}
	for label, same := range map[string]bool{
		wire.RootLabel:      c.rootKey().Equal(root),
		wire.AgreementLabel: c.agreementKey.Equal(agreement),
	} {
		if !same {
			return fmt.Errorf("%w: the key %q in the token %q is not that of the certificate in %s: the folder belongs to another token",
				ErrKeys, label, at.Token, at.file())
		}
	}
	return nil
}

// publicKeys returns the public halves of both keys, if these are what a root
// needs: one of each, made in the token, and never to leave it.
func publicKeys(all *wire.Keys) (*ecdsa.PublicKey, *ecdh.PublicKey, error) {
	point, err := publicKey(all, wire.RootLabel, true)
	if err != nil {
		return nil, nil, err
	}
	root, err := ecdsa.ParseUncompressedPublicKey(elliptic.P256(), point.Bytes())
	if err != nil {
		return nil, nil, fmt.Errorf("%w: %q: %w", ErrKeys, wire.RootLabel, err)
	}
	agreement, err := publicKey(all, wire.AgreementLabel, false)
	if err != nil {
		return nil, nil, err
	}
	return root, agreement, nil
}

// publicKey returns the public half of the key with a label, which signs or else
// agrees.
func publicKey(all *wire.Keys, label string, signs bool) (*ecdh.PublicKey, error) {
	private, public, err := pair(all, label)
	if err != nil {
		return nil, err
	}
	for _, c := range []struct {
		wrong bool
		what  string
	}{
		{!private.EC, "is not an elliptic curve key"},
		{!private.Sensitive || !private.AlwaysSensitive, "is not sensitive, or has not always been: it can be, or could have been, read"},
		{private.Extractable || !private.NeverExtractable, "is extractable, or has been: it can, or could, leave the token"},
		{!private.Local, "was not made in the token"},
		{private.Sign != signs || private.Derive == signs, "may do other things than it is for"},
		{!bytes.Equal(public.Params, prime256v1()), "is not on P-256"},
		{len(private.ID) == 0 || !bytes.Equal(private.ID, public.ID), "has another CKA_ID than its public key"},
	} {
		if c.wrong {
			return nil, fmt.Errorf("%w: the private key %q %s", ErrKeys, label, c.what)
		}
	}
	key, err := ecdh.P256().NewPublicKey(unwrapPoint(public.Point))
	if err != nil {
		return nil, fmt.Errorf("%w: the public key %q is not a point on P-256", ErrKeys, label)
	}
	return key, nil
}

// pair returns the only private and the only public key with a label.
func pair(all *wire.Keys, label string) (*wire.Private, *wire.Public, error) {
	var private []*wire.Private
	for i := range all.Private {
		if all.Private[i].Label == label {
			private = append(private, &all.Private[i])
		}
	}
	var public []*wire.Public
	for i := range all.Public {
		if all.Public[i].Label == label {
			public = append(public, &all.Public[i])
		}
	}
	if len(private) != 1 || len(public) != 1 {
		return nil, nil, fmt.Errorf("%w: the token has %d private and %d public keys %q; want one of each", ErrKeys, len(private), len(public), label)
	}
	return private[0], public[0], nil
}

// prime256v1 is the OID of P-256 in DER (RFC 5480, section 2.1.1.1).
func prime256v1() []byte { return []byte{0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07} }

// unwrapPoint takes away the OCTET STRING around a point of CKA_EC_POINT, which
// some tokens leave out.
func unwrapPoint(point []byte) []byte {
	const size = 65 // uncompressed, of P-256
	if len(point) == size+2 {
		if rest, ok := bytes.CutPrefix(point, []byte{0x04, size}); ok {
			return rest
		}
	}
	return point
}
