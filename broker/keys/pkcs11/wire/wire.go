// Package wire is what brevetd and its helper brevetd-pkcs11 say to each other:
// the helper runs the C code of an HSM's vendor, which shall not run in the
// process that holds the broker's keys. Both programs link it, so it imports
// the standard library only.
//
// # Frames
//
// brevetd writes requests to the helper's standard input, and reads one
// response for each from its standard output, in order: the helper does one
// thing at a time. A frame is
//
//	version   1 byte    1; it comes first in every version to come
//	head      4 bytes   length of the head, big-endian, at most 64 KiB
//	secret    2 bytes   length of the secret, big-endian, at most 512 bytes
//	head                JSON: a Request or a Response
//	secret              a PIN or a shared secret, as it is; mostly empty
//
// Secrets are beside the JSON, not in it, so that no encoder copies them where
// they cannot be wiped, and so that a head may be shown. The head is JSON as
// encoding/json writes it; one that is written in another way is refused, and
// with it unknown and doubled members.
//
// # A conversation
//
//	open   {module, token}  → {tokens}      loads the module, opens a session
//	login  PIN              → {keys}        once; a wrong PIN is not tried again
//	sign   {digest}         → {signature}   ECDSA by the key "brevet root"
//	agree  {peer}           → shared secret ECDH by the key "brevet agreement"
//	check  {}               → {keys}        session and keys are still there
//
// To make a root, open says write, and then generate {id} → {keys} makes both
// key pairs; destroy {id} takes them away again. The helper ends when its
// standard input does.
package wire

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
)

// Version is that of this protocol. Both programs come from one build, so there
// is only this one: another is an installation that was updated by half.
const Version = 1

const (
	// MaxHead bounds the JSON. The longest is that of 64 tokens, about 10 KiB.
	MaxHead = 64 << 10

	// MaxSecret bounds a secret. A PIN has up to 255 bytes.
	MaxSecret = 512

	prefix = 1 + 4 + 2 // bytes: version and lengths
)

var (
	// ErrVersion says that the other program speaks another version.
	ErrVersion = errors.New("the other program speaks another version of the protocol")

	// ErrFrame says that what came is no frame of this protocol.
	ErrFrame = errors.New("not a frame of the protocol")
)

// WriteRequest sends a request.
func WriteRequest(w io.Writer, q *Request) error { return write(w, q, q.Secret) }

// ReadRequest receives a request. It returns [io.EOF] when there are no more.
func ReadRequest(r io.Reader) (*Request, error) {
	q := &Request{}
	secret, err := read(r, q)
	if err != nil {
		return nil, err
	}
	q.Secret = secret
	return q, nil
}

// WriteResponse sends a response.
func WriteResponse(w io.Writer, p *Response) error { return write(w, p, p.Secret) }

// ReadResponse receives a response. It returns [io.EOF] when there are no more.
func ReadResponse(r io.Reader) (*Response, error) {
	p := &Response{}
	secret, err := read(r, p)
	if err != nil {
		return nil, err
	}
	p.Secret = secret
	return p, nil
}

// write sends one frame with one Write.
func write(w io.Writer, head any, secret Secret) error {
	data, err := json.Marshal(head)
	if err != nil {
		return err
	}
	value := secret.Reveal()
	if len(data) > MaxHead || len(value) > MaxSecret {
		return fmt.Errorf("%w: %d bytes with a secret of %d are too long", ErrFrame, len(data), len(value))
	}
	frame := make([]byte, 0, prefix+len(data)+len(value))
	frame = append(frame, Version)
	frame = binary.BigEndian.AppendUint32(frame, uint32(len(data)))
	frame = binary.BigEndian.AppendUint16(frame, uint16(len(value)))
	frame = append(append(frame, data...), value...)
	defer clear(frame)
	_, err = w.Write(frame)
	return err
}

// read receives one frame: its JSON into head, which is a pointer to a struct.
func read(r io.Reader, head any) (Secret, error) {
	data, secret, err := readFrame(r)
	if err != nil {
		return Secret{}, err
	}
	if err := decode(data, head); err != nil {
		clear(secret)
		return Secret{}, err
	}
	return NewSecret(secret), nil
}

func readFrame(r io.Reader) (head, secret []byte, err error) {
	var p [prefix]byte
	if _, err := io.ReadFull(r, p[:1]); err != nil {
		return nil, nil, err // io.EOF between two frames
	}
	if p[0] != Version {
		return nil, nil, fmt.Errorf("%w: %d, this one %d", ErrVersion, p[0], Version)
	}
	if _, err := io.ReadFull(r, p[1:]); err != nil {
		return nil, nil, cut(err)
	}
	headLen, secretLen := binary.BigEndian.Uint32(p[1:]), binary.BigEndian.Uint16(p[5:])
	if headLen > MaxHead || secretLen > MaxSecret {
		return nil, nil, fmt.Errorf("%w: %d bytes with a secret of %d are too long", ErrFrame, headLen, secretLen)
	}
	body := make([]byte, headLen)
	secret = make([]byte, secretLen) // not in one piece with body, which is not wiped
	if _, err := io.ReadFull(r, body); err != nil {
		return nil, nil, cut(err)
	}
	if _, err := io.ReadFull(r, secret); err != nil {
		clear(secret)
		return nil, nil, cut(err)
	}
	return body, secret, nil
}

// cut says that a frame ended early.
func cut(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

func decode(data []byte, head any) error {
	if err := json.Unmarshal(data, head); err != nil {
		return fmt.Errorf("%w: its head is not JSON of the kind expected", ErrFrame)
	}
	again, err := json.Marshal(head)
	if err != nil || !bytes.Equal(again, data) {
		return fmt.Errorf("%w: its head is not written as this version writes it", ErrFrame)
	}
	return nil
}
