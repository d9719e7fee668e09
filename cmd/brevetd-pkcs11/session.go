package main

import (
	"strings"

	"github.com/brevet-dev/brevet/broker/keys/pkcs11/wire"
)

// A session is one with a token. The process has one, for its whole life.
type session struct {
	*module
	handle          ulong
	write           bool
	loggedIn        bool
	root, agreement ulong // the private keys; 0 (CK_INVALID_HANDLE) unless there is exactly one
}

// maxSlots bounds what a library may tell of; a large HSM has some dozens.
const maxSlots = 64

// open loads the library and opens a session with the token of that label.
func (h *helper) open(q *wire.Request) (*wire.Response, error) {
	if err := h.quiet(); err != nil {
		return nil, err
	}
	m, err := load(q.Module, h.memory)
	if err != nil {
		return nil, err
	}
	all, err := m.tokens()
	if err != nil {
		return nil, err
	}
	found, err := choose(all, q.Token)
	if err != nil {
		return &wire.Response{Tokens: described(all)}, err
	}
	s := &session{module: m, write: q.Write}
	if s.handle, err = m.openSession(found.slot, q.Write); err != nil {
		return nil, err
	}
	h.session = s
	return &wire.Response{Tokens: described([]token{*found})}, nil
}

// A token is one that is in a slot now, and initialised.
type token struct {
	slot  ulong
	label string // as the token has it
	wire.Token
}

func described(tokens []token) []wire.Token {
	var out []wire.Token
	for _, t := range tokens {
		out = append(out, t.Token)
	}
	return out
}

// choose returns the one token with a label. Two are an error: which of them was
// meant could change with the order in which they are plugged in.
func choose(all []token, label string) (*token, error) {
	var found *token
	for i := range all {
		if all[i].label != label {
			continue
		}
		if found != nil {
			return nil, tokenError("more than one token has the label %q", label)
		}
		found = &all[i]
	}
	if found == nil {
		return nil, tokenError("no token has the label %q", label)
	}
	return found, nil
}

// tokens lists what is in the slots.
func (m *module) tokens() ([]token, error) {
	slots, err := m.slots()
	if err != nil {
		return nil, err
	}
	var out []token
	info := alloc[ckTokenInfo](m.memory, 1)
	for _, slot := range slots {
		info[0] = ckTokenInfo{}
		err := m.call(cGetTokenInfo, uintptr(slot), address(info))
		if returned(err, ckrTokenNotPresent, ckrTokenNotRecognized) {
			continue // taken out since the list was made
		}
		if err != nil {
			return nil, err
		}
		if info[0].flags&ckfTokenInitialized != 0 {
			out = append(out, describe(slot, &info[0]))
		}
	}
	return out, nil
}

func describe(slot ulong, info *ckTokenInfo) token {
	return token{slot, unpad(info.label[:]), wire.Token{
		Label:        printable(unpad(info.label[:])),
		Serial:       printable(unpad(info.serialNumber[:])),
		Manufacturer: printable(unpad(info.manufacturerID[:])),
		Model:        printable(unpad(info.model[:])),
		FinalTry:     info.flags&ckfUserPINFinalTry != 0,
		PINLocked:    info.flags&ckfUserPINLocked != 0,
	}}
}

// unpad takes the padding away: blanks, though some libraries write zeros.
func unpad(field []byte) string { return strings.TrimRight(string(field), " \x00") }

// slots lists the slots with a token.
func (m *module) slots() ([]ulong, error) {
	const withToken = 1 // CK_TRUE
	count := alloc[ulong](m.memory, 1)
	if err := m.call(cGetSlotList, withToken, 0, address(count)); err != nil {
		return nil, err
	}
	n := count[0]
	if n > maxSlots {
		return nil, moduleError("C_GetSlotList tells of %d slots; this program knows what to do with %d", n, maxSlots)
	}
	if n == 0 {
		return nil, nil
	}
	list := alloc[ulong](m.memory, int(n))
	if err := m.call(cGetSlotList, withToken, address(list), address(count)); err != nil {
		return nil, err
	}
	if count[0] > n {
		return nil, moduleError("C_GetSlotList gave %d slots where %d fit", count[0], n)
	}
	return list[:count[0]], nil
}

func (m *module) openSession(slot ulong, write bool) (ulong, error) {
	flags := uintptr(ckfSerialSession)
	if write {
		flags |= ckfRWSession
	}
	handle := alloc[ulong](m.memory, 1)
	err := m.call(cOpenSession, uintptr(slot), flags, 0, 0, address(handle))
	return handle[0], err
}

// login logs the user in, and finds the keys.
func (s *session) login(pin []byte) (*wire.Response, error) {
	if len(pin) == 0 { // NULL would ask for a PIN pad
		return nil, requestError("the PIN is empty")
	}
	err := s.call(cLogin, uintptr(s.handle), ckuUser, s.memory.copy(pin), uintptr(len(pin)))
	if err != nil && !returned(err, ckrUserAlreadyLoggedIn) {
		return nil, err
	}
	s.loggedIn = true
	return s.check()
}

// check reports the keys, if the user is still logged in.
func (s *session) check() (*wire.Response, error) {
	info := alloc[ckSessionInfo](s.memory, 1)
	if err := s.call(cGetSessionInfo, uintptr(s.handle), address(info)); err != nil {
		return nil, err
	}
	if state := info[0].state; state != cksROUserFunctions && state != cksRWUserFunctions {
		return nil, &wire.Error{Kind: wire.KindReturn, Call: functionNames[cGetSessionInfo], Code: ckrUserNotLoggedIn}
	}
	keys, err := s.keys()
	if err != nil {
		return nil, err
	}
	return &wire.Response{Keys: keys}, nil
}
