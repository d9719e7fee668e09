package exchange

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"
	"unicode"

	"github.com/brevet-dev/brevet/broker/api"
)

// A Kind says who can do something about a [Failure].
type Kind int

const (
	Misconfigured Kind = iota + 1 // the program's author: a permission, variable or option is wrong
	Denied                        // the broker's operator: it understood, and refused
	Unavailable                   // whoever runs the platform or broker; later may be better
	Protocol                      // the other side does not speak as documented
)

// A Failure is an error with what the reader of a log can do about it. Neither
// Err nor Hint holds a secret, and what they quote of an answer is free of control
// characters and of "##[": a line of a job's log can be a command to the platform.
type Failure struct {
	Kind       Kind
	Err        error
	Hint       string        // one or more lines, or ""
	RetryAfter time.Duration // what the other side asked for; 0: nothing
}

func (f *Failure) Error() string { return f.Err.Error() }
func (f *Failure) Unwrap() error { return f.Err }

// Failf makes a Failure; hint may be empty.
func Failf(kind Kind, hint, format string, args ...any) error {
	return &Failure{Kind: kind, Err: fmt.Errorf(format, args...), Hint: hint}
}

// IsKind reports whether err is a Failure of kind.
func IsKind(err error, kind Kind) bool {
	f, ok := errors.AsType[*Failure](err)
	return ok && f.Kind == kind
}

// maxQuote bounds in bytes what is quoted of an answer: a sentence, not a page.
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

// Refusal turns an answer that is no success into a Failure. who answered, as in
// "the broker".
func Refusal(who string, r *Reply, oauth *api.Error) error {
	f := &Failure{Kind: kindOf(r.Status), RetryAfter: r.RetryAfter}
	if oauth == nil {
		f.Err = fmt.Errorf("%s answered %d %s", who, r.Status, http.StatusText(r.Status))
		return f
	}
	oauth = &api.Error{
		Code: Printable(oauth.Code), Description: Printable(oauth.Description), RequestID: Printable(oauth.RequestID),
	}
	f.Err = fmt.Errorf("%s refused (%d): %w", who, r.Status, oauth)
	f.Hint = clockHint(f.Kind, r.Date(), time.Now()) + codeHint(oauth.Code) + replayHint(oauth) + auditHint(oauth.RequestID)
	return f
}

// codeHint says what an OAuth code is about that has its reason here, in whole
// lines, or nothing.
func codeHint(code string) string {
	switch code {
	case api.CodeInsufficientScope:
		return "a policy must grant the data key with allow: [unwrap], or rewrap, for this context, age and number of uses\n"
	case api.CodeInvalidDPoPProof:
		return "the broker's URL must be the one in its own configuration, byte for byte: localhost is not 127.0.0.1\n" +
			"or this machine's clock is wrong\n"
	}
	return ""
}

func auditHint(requestID string) string {
	if requestID == "" {
		return "the whole reason is in the broker's audit log; ask its operator"
	}
	return "the whole reason is in the broker's audit log under request " + requestID + "; ask its operator"
}

// maxSkew is more than a request takes on its way, and less than brokers bear.
const maxSkew = 30 * time.Second

// clockHint says how wrong this machine's clock is, if it is and the broker denied:
// that makes tokens and proofs look as if their time were over, or had not come.
// date is the broker's clock; zero: not known. It is one line, or nothing.
func clockHint(kind Kind, date, now time.Time) string {
	skew := now.Sub(date).Round(time.Second)
	if kind != Denied || date.IsZero() || skew.Abs() < maxSkew {
		return ""
	}
	way := "ahead of"
	if skew < 0 {
		way = "behind"
	}
	return fmt.Sprintf("this machine's clock is %s %s the broker's: set one of them right\n", skew.Abs(), way)
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

// unreachable says what to look at when there was no answer.
func (c *Client) unreachable(err error) error {
	kind, hint := Unavailable, "check that the URL is right and that this machine may reach it"
	if bad, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		kind, hint = Misconfigured, certificateHint(bad.Err)
	}
	if errors.Is(err, errTooLarge) {
		kind, hint = Protocol, ""
	}
	return Failf(kind, hint, "reaching the broker %s: %w", c.broker, err)
}

// certificateHint says what to do about a certificate that is not accepted. To
// trust more helps in one case only, and may hurt in the others.
func certificateHint(why error) string {
	switch why := why.(type) {
	case x509.UnknownAuthorityError:
		return "for a private CA set BREVET_CA_FILE to a file with its certificate"
	case x509.HostnameError:
		return "the certificate is for another host; check the URL, and who answers there"
	case x509.CertificateInvalidError:
		if why.Reason == x509.Expired {
			return "the certificate's time is over or has not come, or this machine's clock is wrong"
		}
	}
	return "the broker's operator must mend its certificate"
}

// IsTooLarge reports whether an answer was refused for its size, unread.
func IsTooLarge(err error) bool { return errors.Is(err, errTooLarge) }
