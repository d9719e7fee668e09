package runner

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"
	"unicode"

	"github.com/brevet-dev/brevet/broker/api"
	"github.com/brevet-dev/brevet/plugins/exchange"
)

// A Kind says who can do something about a [Failure].
type Kind int

const (
	Misconfigured Kind = iota + 1 // the job's author: a permission, variable or flag is wrong
	Denied                        // the broker's operator: it understood, and refused
	Unavailable                   // whoever runs the platform or broker; later may be better
	Protocol                      // the other side does not speak as documented
	Altered                       // whoever kept a file: it is not what was encrypted
)

// A Failure is an error with what the reader of a job's log can do about it.
// Neither Error nor Hint holds a secret, and what they quote of an answer is
// free of control characters and of "##[": a line of a job's log can be a command
// to the platform.
type Failure struct {
	Kind Kind
	Err  error
	Hint string // one or more lines
}

func (f *Failure) Error() string { return f.Err.Error() }
func (f *Failure) Unwrap() error { return f.Err }

// failf makes a Failure; hint may be empty.
func failf(kind Kind, hint, format string, args ...any) error {
	return &Failure{kind, fmt.Errorf(format, args...), hint}
}

// maxQuote bounds what is quoted of an answer: a sentence, not a page.
const maxQuote = 300

// Defused returns line without what GitHub's runner (actions/runner,
// ActionCommand.cs) and Azure's agent (azure-pipelines-agent, Command.cs) take for
// a command wherever in a line it stands. The other form of GitHub's commands
// begins the line, as nothing does that brevet prints.
func Defused(line string) string {
	return strings.ReplaceAll(strings.ReplaceAll(line, "##[", "# #["), "##vso[", "# #vso[")
}

// Printable returns s on one line, of bounded length, and defused.
func Printable(s string) string {
	s = strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return ' '
		}
		return r
	}, s)
	if len(s) > maxQuote {
		s = strings.ToValidUTF8(s[:maxQuote], "") + "…"
	}
	return Defused(s)
}

// refusal turns an answer that is not 200 into a Failure. who is "the broker".
func refusal(who string, status int, oauth *api.Error) error {
	if oauth == nil {
		return failf(kindOf(status), "", "%s answered %d %s", who, status, http.StatusText(status))
	}
	oauth = &api.Error{
		Code: Printable(oauth.Code), Description: Printable(oauth.Description), RequestID: Printable(oauth.RequestID),
	}
	hint := "the whole reason is in the broker's audit log; ask its operator"
	if oauth.RequestID != "" {
		hint = "the whole reason is in the broker's audit log under request " + oauth.RequestID + "; ask its operator"
	}
	hint = exchange.ReplayHint(oauth) + hint
	if oauth.Code == api.CodeInsufficientScope {
		hint = "a policy must grant the data key with allow: [unwrap], or rewrap, for this context, age and number of uses\n" + hint
	}
	if oauth.Code == api.CodeInvalidDPoPProof {
		hint = "the broker's URL must be the one in its own configuration, byte for byte: localhost is not 127.0.0.1\n" +
			"or this machine's clock is wrong by a minute or more\n" + hint
	}
	return &Failure{kindOf(status), fmt.Errorf("%s refused (%d): %w", who, status, oauth), hint}
}

// maxSkew is more than a request takes on its way, and less than brokers bear.
const maxSkew = 30 * time.Second

// withClock adds to a refusal how wrong this machine's clock is, if it is: that
// makes tokens and proofs look as if their time were over, or had not come. date
// is the other side's clock; zero: not known.
func withClock(refused error, date, now time.Time) error {
	f, ok := errors.AsType[*Failure](refused)
	skew := now.Sub(date).Round(time.Second)
	if !ok || f.Kind != Denied || date.IsZero() || skew.Abs() < maxSkew {
		return refused
	}
	way := "ahead of"
	if skew < 0 {
		way = "behind"
	}
	hint := fmt.Sprintf("this machine's clock is %s %s the broker's: set one of them right", skew.Abs(), way)
	return &Failure{f.Kind, f.Err, strings.TrimSuffix(hint+"\n"+f.Hint, "\n")}
}

func kindOf(status int) Kind {
	switch {
	case status >= 500 || status == http.StatusTooManyRequests:
		return Unavailable
	case status >= 400:
		return Denied
	}
	return Protocol // a redirect, or a success without the content it needs
}

// IsKind reports whether err is a Failure of kind.
func IsKind(err error, kind Kind) bool {
	f, ok := errors.AsType[*Failure](err)
	return ok && f.Kind == kind
}
