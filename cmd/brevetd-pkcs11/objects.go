package main

import (
	"slices"

	"github.com/brevet-dev/brevet/broker/keys/pkcs11/wire"
)

const (
	// maxObjects bounds how many objects of one kind are told of. Any number
	// but one is refused in the end.
	maxObjects = 4

	// maxAttribute bounds the value of an attribute, in bytes. The longest that
	// is asked for is a point of 67.
	maxAttribute = 256
)

// find returns the token's objects of a class with certain attributes, at most
// maxObjects.
func (s *session) find(class ulong, with ...attribute) ([]ulong, error) {
	first, count := s.attributes(append(with, number(ckaClass, class), flag(ckaToken, true)))
	if err := s.call(cFindObjectsInit, uintptr(s.handle), first, count); err != nil {
		return nil, err
	}
	found, err := s.found()
	if final := s.call(cFindObjectsFinal, uintptr(s.handle)); err == nil {
		err = final
	}
	return found, err
}

func (s *session) found() ([]ulong, error) {
	var found []ulong
	list, n := alloc[ulong](s.memory, maxObjects), alloc[ulong](s.memory, 1)
	for len(found) < maxObjects {
		if err := s.call(cFindObjects, uintptr(s.handle), address(list), maxObjects, address(n)); err != nil {
			return nil, err
		}
		if n[0] > maxObjects {
			return nil, moduleError("C_FindObjects gave %d objects where %d fit", n[0], maxObjects)
		}
		if n[0] == 0 {
			return found, nil
		}
		found = append(found, list[:n[0]]...)
	}
	return found[:maxObjects], nil
}

// attribute returns the value of an attribute, or nil if the token does not tell
// it. The value is not in the arena.
func (s *session) attribute(object, typ ulong) ([]byte, error) {
	defer s.memory.release(s.memory.used)
	value, a := s.memory.bytes(maxAttribute), alloc[ckAttribute](s.memory, 1)
	a[0] = ckAttribute{typ, address(value), maxAttribute}
	err := s.call(cGetAttributeValue, uintptr(s.handle), uintptr(object), address(a), 1)
	if returned(err, ckrAttributeSensitive, ckrAttributeTypeInvalid) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	n := a[0].length
	if n == unavailable {
		return nil, nil
	}
	if n > maxAttribute {
		return nil, moduleError("C_GetAttributeValue gave %d bytes for attribute 0x%x where %d fit", n, typ, maxAttribute)
	}
	return slices.Clone(value[:n]), nil
}

// keys lists the objects with our labels, and remembers the private ones.
func (s *session) keys() (*wire.Keys, error) {
	s.root, s.agreement = 0, 0 // what it was told before an error does not count
	all := &wire.Keys{}
	var err error
	if s.root, err = s.pair(all, wire.RootLabel); err != nil {
		return nil, err
	}
	if s.agreement, err = s.pair(all, wire.AgreementLabel); err != nil {
		return nil, err
	}
	return all, nil
}

// pair adds the objects with one label to all, and returns the private key if
// there is exactly one.
func (s *session) pair(all *wire.Keys, label string) (ulong, error) {
	private, err := s.find(ckoPrivateKey, text(ckaLabel, label))
	if err != nil {
		return 0, err
	}
	public, err := s.find(ckoPublicKey, text(ckaLabel, label))
	if err != nil {
		return 0, err
	}
	if err := s.describe(all, label, private, public); err != nil || len(private) != 1 {
		return 0, err
	}
	return private[0], nil
}

func (s *session) describe(all *wire.Keys, label string, private, public []ulong) error {
	for _, object := range private {
		r := reader{s, object, nil}
		all.Private = append(all.Private, r.private(label))
		if r.err != nil {
			return r.err
		}
	}
	for _, object := range public {
		r := reader{s, object, nil}
		all.Public = append(all.Public, wire.Public{
			Label: label, ID: r.value(ckaID), Params: r.value(ckaECParams), Point: r.value(ckaECPoint),
		})
		if r.err != nil {
			return r.err
		}
	}
	return nil
}

// A reader reads attributes of one object until the first error.
type reader struct {
	session *session
	object  ulong
	err     error
}

func (r *reader) private(label string) wire.Private {
	return wire.Private{
		Label:            label,
		ID:               r.value(ckaID),
		EC:               slices.Equal(r.value(ckaKeyType), number(ckaKeyType, ckkEC).value),
		Sensitive:        r.flag(ckaSensitive),
		AlwaysSensitive:  r.flag(ckaAlwaysSensitive),
		Extractable:      r.flag(ckaExtractable),
		NeverExtractable: r.flag(ckaNeverExtractable),
		Local:            r.flag(ckaLocal),
		Sign:             r.flag(ckaSign),
		Derive:           r.flag(ckaDerive),
	}
}

func (r *reader) value(typ ulong) []byte {
	if r.err != nil {
		return nil
	}
	value, err := r.session.attribute(r.object, typ)
	r.err = err
	return value
}

// flag reads a CK_BBOOL: for C, all but 0 is true.
func (r *reader) flag(typ ulong) bool {
	value := r.value(typ)
	return len(value) == 1 && value[0] != 0
}

// prime256v1 is the OID of P-256 in DER, as CKA_EC_PARAMS has it (RFC 5480,
// section 2.1.1.1).
var prime256v1 = []byte{0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07}

// generate makes both key pairs in the token.
func (s *session) generate(id []byte) (*wire.Response, error) {
	if !s.write || len(id) == 0 {
		return nil, requestError("generating takes an ID and a session that may write")
	}
	if err := s.generatePair(wire.RootLabel, id, true); err != nil {
		return nil, err
	}
	if err := s.generatePair(wire.AgreementLabel, id, false); err != nil {
		return nil, err
	}
	return s.check()
}

// generatePair makes a key pair that signs, or else agrees.
func (s *session) generatePair(label string, id []byte, signs bool) error {
	both := []attribute{flag(ckaToken, true), text(ckaLabel, label), {ckaID, id}}
	public, publics := s.attributes(slices.Concat(both, []attribute{
		{ckaECParams, prime256v1}, flag(ckaPrivate, false), flag(ckaVerify, signs),
	}))
	private, privates := s.attributes(slices.Concat(both, []attribute{
		flag(ckaPrivate, true), flag(ckaSensitive, true), flag(ckaExtractable, false),
		flag(ckaSign, signs), flag(ckaDerive, !signs), flag(ckaDecrypt, false), flag(ckaUnwrap, false),
	}))
	made := alloc[ulong](s.memory, 2)
	return s.call(cGenerateKeyPair, uintptr(s.handle), s.mechanism(ckmECKeyPairGen, 0, 0),
		public, publics, private, privates, address(made[:1]), address(made[1:]))
}

// destroy takes away all objects with one of our labels and an ID. It goes on
// after an error, so that as little as possible is left.
func (s *session) destroy(id []byte) error {
	if !s.write || len(id) == 0 {
		return requestError("destroying takes an ID and a session that may write")
	}
	var first error
	for _, label := range []string{wire.RootLabel, wire.AgreementLabel} {
		for _, class := range []ulong{ckoPrivateKey, ckoPublicKey} {
			found, err := s.find(class, text(ckaLabel, label), attribute{ckaID, id})
			for _, object := range found {
				if e := s.call(cDestroyObject, uintptr(s.handle), uintptr(object)); err == nil {
					err = e
				}
			}
			if first == nil {
				first = err
			}
		}
	}
	return first
}
