package runner

import "github.com/brevet-dev/brevet/plugins/exchange"

// A Kind says who can do something about a [Failure].
type Kind = exchange.Kind

// The kinds of package exchange, and one more.
const (
	Misconfigured = exchange.Misconfigured // the job's author: a permission, variable or flag is wrong
	Denied        = exchange.Denied
	Unavailable   = exchange.Unavailable
	Protocol      = exchange.Protocol

	Altered = exchange.Protocol + 1 // whoever kept a file: it is not what was encrypted
)

// A Failure is an error with what the reader of a job's log can do about it.
type Failure = exchange.Failure

// failf makes a Failure; hint may be empty.
func failf(kind Kind, hint, format string, args ...any) error {
	return exchange.Failf(kind, hint, format, args...)
}

// IsKind reports whether err is a Failure of kind.
func IsKind(err error, kind Kind) bool { return exchange.IsKind(err, kind) }

// Printable returns s on one line, of bounded length, and as [Defused] does.
func Printable(s string) string { return exchange.Printable(s) }

// Defused returns line without what is a command to the platform in a job's log.
func Defused(line string) string { return exchange.Defused(line) }
