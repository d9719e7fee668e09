package pkcs11

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/brevet-dev/brevet/broker/keys/pkcs11/wire"
)

var (
	// ErrTimeout says that the HSM's library did not answer in time. Its process
	// was killed; the next use starts another.
	ErrTimeout = errors.New("the HSM's library did not answer in time")

	// ErrEnded says that the helper process ended before it answered: the
	// library crashed, or somebody killed it.
	ErrEnded = errors.New("the process with the HSM's library ended")

	// ErrPIN says that the token refused the PIN. It is not tried again:
	// not by this process, and by none until its file changes.
	ErrPIN = errors.New("the token refuses the PIN")

	// ErrLocked says that the PIN is locked, or would be after one more try.
	ErrLocked = errors.New("the token's PIN is locked")

	// ErrToken says that there is not exactly one token with the label.
	ErrToken = errors.New("the token is not there")

	// ErrKeys says that the keys in the token are not those of the certificates,
	// or could leave it.
	ErrKeys = errors.New("the keys in the token are not this root's")

	// ErrSignature says that the token made a signature that does not verify.
	ErrSignature = errors.New("the token made a wrong signature, which was thrown away: the HSM may be faulty")

	// ErrClosed says that the root was closed.
	ErrClosed = errors.New("the root is closed")
)

// explain turns what the helper said into an error that says what to do.
func (c *Config) explain(e *wire.Error, tokens []wire.Token) error {
	switch e.Kind {
	case wire.KindReturn:
		return c.returned(e)
	case wire.KindToken:
		return fmt.Errorf("%w: %s; %s", ErrToken, plain(e.Text), labels(tokens))
	}
	return fmt.Errorf("using the HSM's library %s: %w", c.Module, &wire.Error{Kind: e.Kind, Text: plain(e.Text)})
}

func labels(tokens []wire.Token) string {
	if len(tokens) == 0 {
		return "the library knows of no initialised token: is the HSM connected?"
	}
	var quoted []string
	for _, t := range tokens {
		quoted = append(quoted, fmt.Sprintf("%q (serial %q)", t.Label, t.Serial))
	}
	slices.Sort(quoted)
	return "there are " + strings.Join(quoted, ", ")
}

// Return values (PKCS#11 v2.40, section 5.1 and pkcs11t.h) that get a
// sentence of their own.
const (
	ckrPINIncorrect          = 0xa0
	ckrPINInvalid            = 0xa1
	ckrPINLenRange           = 0xa2
	ckrPINExpired            = 0xa3
	ckrPINLocked             = 0xa4
	ckrUserPINNotInitialized = 0x102
)

// A returnError is that a function of the library returned an error.
type returnError struct {
	call string
	code uint64 // CK_RV
}

func (e *returnError) Error() string {
	return fmt.Sprintf("%s returned 0x%x%s", e.call, e.code, name(e.code))
}

func (c *Config) returned(e *wire.Error) error {
	known := &returnError{plain(e.Call), e.Code}
	switch e.Code {
	case ckrPINIncorrect, ckrPINInvalid, ckrPINLenRange:
		return fmt.Errorf("%w: it is not tried again, since tokens lock; correct %s and start brevetd again: %w", ErrPIN, c.PINFile, known)
	case ckrPINExpired:
		return fmt.Errorf("%w: it has expired; set a new one with the vendor's tool: %w", ErrPIN, known)
	case ckrUserPINNotInitialized:
		return fmt.Errorf("%w: the token has none yet; set it with the vendor's tool: %w", ErrPIN, known)
	case ckrPINLocked:
		return fmt.Errorf("%w: the token's security officer has to set a new one: %w", ErrLocked, known)
	}
	return known
}

// wrongPIN reports whether err is that the token compared the PIN, and counted a
// wrong one, perhaps.
func wrongPIN(err error) bool {
	e, ok := errors.AsType[*returnError](err)
	return ok && e.code >= ckrPINIncorrect && e.code <= ckrPINLenRange
}

// name returns the name of a return value, if it is one that says something.
func name(code uint64) string {
	names := map[uint64]string{
		0x02: "CKR_HOST_MEMORY", 0x05: "CKR_GENERAL_ERROR", 0x06: "CKR_FUNCTION_FAILED", 0x07: "CKR_ARGUMENTS_BAD",
		0x13: "CKR_ATTRIBUTE_VALUE_INVALID", 0x30: "CKR_DEVICE_ERROR", 0x31: "CKR_DEVICE_MEMORY", 0x32: "CKR_DEVICE_REMOVED",
		0x54: "CKR_FUNCTION_NOT_SUPPORTED", 0x60: "CKR_KEY_HANDLE_INVALID", 0x68: "CKR_KEY_FUNCTION_NOT_PERMITTED",
		0x70: "CKR_MECHANISM_INVALID", 0x71: "CKR_MECHANISM_PARAM_INVALID", 0x82: "CKR_OBJECT_HANDLE_INVALID",
		0xa0: "CKR_PIN_INCORRECT", 0xa1: "CKR_PIN_INVALID", 0xa2: "CKR_PIN_LEN_RANGE", 0xa3: "CKR_PIN_EXPIRED", 0xa4: "CKR_PIN_LOCKED",
		0xb0: "CKR_SESSION_CLOSED", 0xb1: "CKR_SESSION_COUNT", 0xb3: "CKR_SESSION_HANDLE_INVALID",
		0xd0: "CKR_TEMPLATE_INCOMPLETE", 0xd1: "CKR_TEMPLATE_INCONSISTENT",
		0xe0: "CKR_TOKEN_NOT_PRESENT", 0xe1: "CKR_TOKEN_NOT_RECOGNIZED", 0xe2: "CKR_TOKEN_WRITE_PROTECTED",
		0x101: "CKR_USER_NOT_LOGGED_IN", 0x102: "CKR_USER_PIN_NOT_INITIALIZED", 0x130: "CKR_DOMAIN_PARAMS_INVALID", 0x150: "CKR_BUFFER_TOO_SMALL",
	}
	if n, ok := names[code]; ok {
		return " (" + n + ")"
	}
	return ""
}

// plain returns s without what could write over a terminal or a log line: the
// helper runs code that is not ours.
func plain(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r >= 0x7f && r < 0xa0 || r == '\u2028' || r == '\u2029' {
			return ' '
		}
		return r
	}, s)
}
