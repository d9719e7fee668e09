package main

import (
	"errors"
	"fmt"
	"io"

	"github.com/brevet-dev/brevet/broker/keys/pkcs11/wire"
)

// A helper answers the requests of one parent, one after the other.
type helper struct {
	memory  *arena
	quiet   func() error // called before the library is loaded
	session *session     // nil before open
}

// serve answers until there are no more requests.
func (h *helper) serve(in io.Reader, out io.Writer) error {
	for {
		q, err := wire.ReadRequest(in)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("reading a request: %w", err)
		}
		p := h.answer(q)
		err = wire.WriteResponse(out, p)
		q.Secret.Wipe()
		p.Secret.Wipe()
		h.memory.wipe()
		if err != nil {
			return fmt.Errorf("writing a response: %w", err)
		}
	}
}

// close lets the library end its sessions.
func (h *helper) close() {
	if h.session != nil {
		_ = h.session.call(cFinalize, 0) // the process ends, whatever it says
	}
	h.memory.wipe()
}

// answer does what is asked; what goes wrong is in the response.
func (h *helper) answer(q *wire.Request) (p *wire.Response) {
	defer func() {
		switch r := recover(); r {
		case nil:
		case errArena:
			p = &wire.Response{Error: asError(errArena)}
		default:
			panic(r)
		}
	}()
	p, err := h.do(q)
	if p == nil {
		p = &wire.Response{}
	}
	if err != nil {
		p.Secret.Wipe()
		p = &wire.Response{Error: asError(err), Tokens: p.Tokens}
	}
	return p
}

func asError(err error) *wire.Error {
	if e, ok := errors.AsType[*wire.Error](err); ok {
		return e
	}
	return &wire.Error{Kind: wire.KindModule, Text: printable(err.Error())}
}

// do keeps the order: open, login, then the rest.
func (h *helper) do(q *wire.Request) (*wire.Response, error) {
	switch {
	case q.Op == wire.Open && h.session == nil:
		return h.open(q)
	case q.Op == wire.Login && h.session != nil && !h.session.loggedIn:
		return h.session.login(q.Secret.Reveal())
	case h.session == nil || !h.session.loggedIn:
		return nil, requestError("%q is unknown, or came out of order", q.Op)
	}
	return h.session.do(q)
}

func (s *session) do(q *wire.Request) (*wire.Response, error) {
	switch q.Op {
	case wire.Check:
		return s.check()
	case wire.Generate:
		return s.generate(q.ID)
	case wire.Destroy:
		return nil, s.destroy(q.ID)
	case wire.Sign:
		return s.sign(q.Digest)
	case wire.Agree:
		return s.agree(q.Peer)
	}
	return nil, requestError("%q is unknown, or came out of order", q.Op)
}

func requestError(format string, args ...any) error {
	return &wire.Error{Kind: wire.KindRequest, Text: printable(fmt.Sprintf(format, args...))}
}

func tokenError(format string, args ...any) error {
	return &wire.Error{Kind: wire.KindToken, Text: printable(fmt.Sprintf(format, args...))}
}

// returned reports whether err is that a function returned one of codes.
func returned(err error, codes ...uint64) bool {
	e, ok := errors.AsType[*wire.Error](err)
	if !ok || e.Kind != wire.KindReturn {
		return false
	}
	for _, code := range codes {
		if e.Code == code {
			return true
		}
	}
	return false
}
