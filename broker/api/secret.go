package api

import (
	"fmt"
	"io"
)

// A Secret carries a value that must never be printed: a subject token, a
// session token, a credential. Every ordinary way of showing it (fmt with any
// verb, encoding/json, log/slog) gives "[secret]"; only [Secret.Reveal] gives
// the value. The zero Secret is empty.
//
// The value sits behind a func because fmt prints the unexported fields of a
// nested struct without asking their String method; of a func it can print an
// address at most.
//
// A Secret is not wiped: it is a string of Go, which nobody can overwrite, and
// its bytes stay in memory until the garbage collector's next use of the place.
// Whoever makes one from a byte slice clears the slice.
type Secret struct{ reveal func() string }

// NewSecret wraps value.
func NewSecret(value string) Secret {
	return Secret{func() string { return value }}
}

// Reveal returns the value. Grep for its callers to see every place where a
// secret leaves its wrapping.
func (s Secret) Reveal() string {
	if s.reveal == nil {
		return ""
	}
	return s.reveal()
}

// IsZero reports whether s is empty.
func (s Secret) IsZero() bool { return s.Reveal() == "" }

const redacted = "[secret]"

// Format implements [fmt.Formatter] for every verb.
func (Secret) Format(f fmt.State, _ rune) { io.WriteString(f, redacted) }

// MarshalText implements [encoding.TextMarshaler], which encoding/json and
// log/slog use.
func (Secret) MarshalText() ([]byte, error) { return []byte(redacted), nil }
