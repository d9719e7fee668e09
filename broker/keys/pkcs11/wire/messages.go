package wire

import (
	"fmt"
	"io"
)

// The labels of the keys in the token.
const (
	RootLabel      = "brevet root"
	AgreementLabel = "brevet agreement"
)

// An Op is what a request asks for.
type Op string

// The operations: see the package comment.
const (
	Open     Op = "open"
	Login    Op = "login"
	Check    Op = "check"
	Generate Op = "generate"
	Destroy  Op = "destroy"
	Sign     Op = "sign"
	Agree    Op = "agree"
)

// A Request is one to the helper. An operation ignores what it has no use for.
type Request struct {
	Op     Op     `json:"op"`
	Module string `json:"module,omitempty"` // open: absolute path of the vendor's library
	Token  string `json:"token,omitempty"`  // open: label of the token
	Write  bool   `json:"write,omitempty"`  // open: for generate and destroy
	ID     []byte `json:"id,omitempty"`     // generate, destroy: CKA_ID of both key pairs
	Digest []byte `json:"digest,omitempty"` // sign: SHA-256, 32 bytes
	Peer   []byte `json:"peer,omitempty"`   // agree: the other's point on P-256, uncompressed, 65 bytes
	Secret Secret `json:"-"`                // login: the PIN
}

// A Response answers one request.
type Response struct {
	Error     *Error  `json:"error,omitempty"`     // then nothing else, but Tokens for open
	Tokens    []Token `json:"tokens,omitempty"`    // open: the one that was opened; after an error all there are
	Keys      *Keys   `json:"keys,omitempty"`      // login, check, generate
	Signature []byte  `json:"signature,omitempty"` // sign: r and s, 32 bytes each
	Secret    Secret  `json:"-"`                   // agree: the x-coordinate of the shared point, 32 bytes
}

// A Token is what a token says about itself (PKCS#11 v2.40, CK_TOKEN_INFO).
type Token struct {
	Label        string `json:"label"`
	Serial       string `json:"serial"`
	Manufacturer string `json:"manufacturer"`
	Model        string `json:"model"`
	FinalTry     bool   `json:"final_try,omitempty"`  // CKF_USER_PIN_FINAL_TRY: one more wrong PIN locks it
	PINLocked    bool   `json:"pin_locked,omitempty"` // CKF_USER_PIN_LOCKED
}

// Keys are all objects in the token with one of our labels.
type Keys struct {
	Private []Private `json:"private"`
	Public  []Public  `json:"public"`
}

// A Private is what a token says about a private key. What it does not know is
// false or empty.
type Private struct {
	Label            string `json:"label"`
	ID               []byte `json:"id"`
	EC               bool   `json:"ec"`        // CKA_KEY_TYPE is CKK_EC
	Sensitive        bool   `json:"sensitive"` // and the others: the attribute of that name
	AlwaysSensitive  bool   `json:"always_sensitive"`
	Extractable      bool   `json:"extractable"`
	NeverExtractable bool   `json:"never_extractable"`
	Local            bool   `json:"local"`
	Sign             bool   `json:"sign"`
	Derive           bool   `json:"derive"`
}

// A Public is what a token says about a public key.
type Public struct {
	Label  string `json:"label"`
	ID     []byte `json:"id"`
	Params []byte `json:"params"` // CKA_EC_PARAMS
	Point  []byte `json:"point"`  // CKA_EC_POINT
}

// An Error is why the helper could not do what it was asked.
type Error struct {
	Kind Kind   `json:"kind"`
	Call string `json:"call,omitempty"` // KindReturn: the function, "C_Sign"
	Code uint64 `json:"code,omitempty"` // KindReturn: CK_RV
	Text string `json:"text,omitempty"` // the other kinds: what was wrong
}

// A Kind of error.
type Kind string

// The kinds of errors.
const (
	KindReturn  Kind = "return"  // a function of the module returned Code
	KindModule  Kind = "module"  // the module cannot be loaded, or answers nonsense
	KindToken   Kind = "token"   // not exactly one token with that label
	KindRequest Kind = "request" // the request is not one, or came out of order
)

// Error implements error.
func (e *Error) Error() string {
	if e.Kind == KindReturn {
		return fmt.Sprintf("%s returned 0x%x", e.Call, e.Code)
	}
	return e.Text
}

// A Secret carries the bytes of a PIN or of a shared secret. It cannot be
// printed or marshalled by accident, and its bytes can be wiped. The zero Secret
// is empty.
type Secret struct{ reveal func() []byte }

// NewSecret wraps value, which it does not copy.
func NewSecret(value []byte) Secret { return Secret{func() []byte { return value }} }

// Reveal returns the bytes themselves.
func (s Secret) Reveal() []byte {
	if s.reveal == nil {
		return nil
	}
	return s.reveal()
}

// Wipe overwrites the bytes. What it cannot reach: copies in the buffers of the
// kernel's pipe, until they are read.
func (s Secret) Wipe() { clear(s.Reveal()) }

const redacted = "[secret]"

// Format implements [fmt.Formatter] for every verb.
func (Secret) Format(f fmt.State, _ rune) { io.WriteString(f, redacted) }

// MarshalText implements [encoding.TextMarshaler], which encoding/json and
// log/slog use.
func (Secret) MarshalText() ([]byte, error) { return []byte(redacted), nil }
