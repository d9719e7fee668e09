package broker

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// An Attribute is a fact about a lease or its session that an operator selects
// leases by.
type Attribute string

// The attributes. Ids of repositories, owners and runs are unique within an
// issuer only.
const (
	ByIssuer      Attribute = "issuer" // its name in the configuration
	ByRepository  Attribute = "repository-id"
	ByOwner       Attribute = "owner-id"
	ByRun         Attribute = "run"
	ByJob         Attribute = "job"
	ByActor       Attribute = "actor"
	ByActorID     Attribute = "actor-id"
	ByEnvironment Attribute = "environment"
	ByRef         Attribute = "ref"
	ByCredential  Attribute = "credential"
	ByPolicy      Attribute = "policy"
	ByDigest      Attribute = "policy-digest"
	ByEpoch       Attribute = "epoch" // kid of the key that signed the session token
	BySession     Attribute = "session"
	ByLease       Attribute = "lease"
)

// Attributes returns all of them, always in this order. Stores may keep
// something by position: new ones come at the end.
func Attributes() []Attribute {
	return []Attribute{
		ByIssuer, ByRepository, ByOwner, ByRun, ByJob, ByActor, ByActorID, ByEnvironment, ByRef,
		ByCredential, ByPolicy, ByDigest, ByEpoch, BySession, ByLease,
	}
}

// Of returns the attribute of a lease; "" if it has none, and then no selector
// finds it by that.
func (a Attribute) Of(s *Session, l *Lease) string {
	w := &s.Who.Workload
	switch a {
	case ByIssuer:
		return s.Who.Issuer
	case ByRepository:
		return w.ProjectID
	case ByOwner:
		return w.OwnerID
	case ByRun:
		return w.Run
	case ByJob:
		return w.Job
	case ByActor:
		return w.Actor
	case ByActorID:
		return w.ActorID
	case ByEnvironment:
		return w.Environment
	case ByRef:
		return w.Ref
	case ByEpoch:
		return s.Epoch
	case BySession:
		return s.ID
	}
	return a.ofLease(l)
}

func (a Attribute) ofLease(l *Lease) string {
	switch a {
	case ByCredential:
		return l.Credential
	case ByPolicy:
		return l.Policy
	case ByDigest:
		return l.PolicyDigest
	case ByLease:
		return l.ID
	}
	return ""
}

// PartOfSession reports whether two leases of one session can differ in it.
func (a Attribute) PartOfSession() bool {
	return a == ByCredential || a == ByPolicy || a == ByDigest || a == ByLease
}

// A Selector says which leases are meant: those of which all hold.
type Selector struct {
	Match map[Attribute]string
	Since time.Time // issued then or later; zero: whenever. Milliseconds count.
	All   bool      // every lease; then there is nothing else
}

// maxSelected bounds a value, in bytes: refs are the longest, and platforms
// keep them below that.
const maxSelected = 512

// Validate refuses a selector that does not say clearly what is meant. That
// nothing is selected is never read as everything.
func (sel *Selector) Validate() error {
	if sel.All && (len(sel.Match) > 0 || !sel.Since.IsZero()) {
		return errors.New("all, and something else: everything is selected, or what the rest says")
	}
	if !sel.All && len(sel.Match) == 0 && sel.Since.IsZero() {
		return errors.New("nothing is selected")
	}
	for a, value := range sel.Match {
		switch {
		case !slices.Contains(Attributes(), a):
			return fmt.Errorf("leases are not selected by %.64q", string(a))
		case value == "":
			return fmt.Errorf("%s is empty", a)
		case len(value) > maxSelected:
			return fmt.Errorf("%s is longer than %d bytes", a, maxSelected)
		case !utf8.ValidString(value) || strings.ContainsFunc(value, unicode.IsControl):
			return fmt.Errorf("%s is not text in one line", a)
		}
	}
	return sel.validateIDs()
}

// validateIDs refuses ids that no session or lease can have: a digit that was
// lost in copying must not look like an empty result.
func (sel *Selector) validateIDs() error {
	for a, kind := range map[Attribute]byte{BySession: 's', ByLease: 'l'} {
		if id, ok := sel.Match[a]; ok {
			if _, err := ShardOf(kind, id); err != nil {
				return fmt.Errorf("%s: %q is not the id of one", a, id)
			}
		}
	}
	return nil
}

// Matches reports whether l, of session s, is selected.
func (sel *Selector) Matches(s *Session, l *Lease) bool {
	for a, want := range sel.Match {
		if a.Of(s, l) != want {
			return false
		}
	}
	return sel.All || !l.IssuedAt.Before(sel.Since)
}

// WholeSessions reports whether a session is selected with all its leases, or
// with none.
func (sel *Selector) WholeSessions() bool {
	for a := range sel.Match {
		if a.PartOfSession() {
			return false
		}
	}
	return true
}

// String returns the canonical form, which [ParseSelector] reads:
//
//	issuer="github" repository-id="456" since=2026-11-25T16:00:00Z
func (sel Selector) String() string {
	if sel.All {
		return "all"
	}
	var parts []string
	for _, a := range Attributes() {
		if value, ok := sel.Match[a]; ok {
			parts = append(parts, string(a)+"="+strconv.Quote(value))
		}
	}
	if !sel.Since.IsZero() {
		parts = append(parts, "since="+sel.Since.UTC().Format(time.RFC3339Nano))
	}
	return strings.Join(parts, " ")
}

// ParseSelector reads the canonical form, and that only.
func ParseSelector(text string) (Selector, error) {
	sel, err := parseSelector(text)
	if err == nil {
		err = sel.Validate()
	}
	if err == nil && sel.String() != text {
		err = errors.New("not in canonical form")
	}
	if err != nil {
		return Selector{}, fmt.Errorf("selector: %w", err)
	}
	return sel, nil
}

func parseSelector(text string) (Selector, error) {
	sel := Selector{Match: map[Attribute]string{}}
	if text == "all" {
		return Selector{All: true}, nil
	}
	for rest := text; rest != ""; {
		name, tail, ok := strings.Cut(rest, "=")
		if !ok {
			return sel, errors.New("not of the form name=value")
		}
		if name == "since" {
			var err error
			sel.Since, err = time.Parse(time.RFC3339Nano, tail)
			return sel, err // the last in the canonical form
		}
		quoted, err := strconv.QuotedPrefix(tail)
		if err != nil {
			return sel, fmt.Errorf("the value of %.64q is not quoted", name)
		}
		if sel.Match[Attribute(name)], err = strconv.Unquote(quoted); err != nil {
			return sel, err
		}
		rest = strings.TrimPrefix(tail[len(quoted):], " ")
	}
	return sel, nil
}

// MarshalJSON implements [json.Marshaler].
func (sel Selector) MarshalJSON() ([]byte, error) { return json.Marshal(sel.String()) }

// UnmarshalJSON implements [json.Unmarshaler].
func (sel *Selector) UnmarshalJSON(data []byte) error {
	var text string
	if err := json.Unmarshal(data, &text); err != nil {
		return err
	}
	var err error
	*sel, err = ParseSelector(text)
	return err
}
