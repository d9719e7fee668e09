package broker_test

import (
	"strings"
	"testing"
	"time"

	"github.com/brevet-dev/brevet/broker"
	"github.com/brevet-dev/brevet/issuers"
)

func attributeCase() (*broker.Session, *broker.Lease) {
	s := &broker.Session{
		ID: "s1-aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", Epoch: "epoch",
		Who: broker.Who{Issuer: "github", Workload: issuers.Workload{
			ProjectID: "456", OwnerID: "123", Run: "7", Job: "8", Actor: "alice", ActorID: "9", Environment: "production", Ref: "refs/heads/main",
		}},
	}
	return s, &broker.Lease{
		ID: "l1-aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", Credential: "deploy", Policy: "shop", PolicyDigest: "sha256:0",
		IssuedAt: time.UnixMilli(1_700_000_000_000),
	}
}

// Each attribute is a fact of its own: a selector by it finds the lease by the
// right value only.
func TestSelectorMatches(t *testing.T) {
	s, l := attributeCase()
	seen := map[string]broker.Attribute{}
	for _, a := range broker.Attributes() {
		value := a.Of(s, l)
		if other, twice := seen[value]; twice || value == "" {
			t.Errorf("%s is %q, as %s", a, value, other)
		}
		seen[value] = a
		for v, want := range map[string]bool{value: true, value + "x": false, strings.ToUpper(value) + ".": false} {
			sel := broker.Selector{Match: map[broker.Attribute]string{a: v}}
			if got := sel.Matches(s, l); got != want {
				t.Errorf("%s matches: %v, want %v", sel, got, want)
			}
		}
	}
	for since, want := range map[time.Time]bool{l.IssuedAt: true, l.IssuedAt.Add(time.Millisecond): false, l.IssuedAt.Add(-time.Hour): true} {
		if got := (&broker.Selector{Since: since}).Matches(s, l); got != want {
			t.Errorf("since %s matches: %v, want %v", since, got, want)
		}
	}
	if !(&broker.Selector{All: true}).Matches(s, l) {
		t.Error("all does not match")
	}
	two := broker.Selector{Match: map[broker.Attribute]string{broker.ByRepository: "456", broker.ByCredential: "registry"}}
	if two.Matches(s, l) {
		t.Error("one of two holds, and the selector matches")
	}
}

func TestSelectorValidate(t *testing.T) {
	match := func(a broker.Attribute, v string) broker.Selector {
		return broker.Selector{Match: map[broker.Attribute]string{a: v}}
	}
	for _, tt := range []struct {
		name string
		sel  broker.Selector
		want string
	}{
		{"nothing", broker.Selector{}, "nothing is selected"},
		{"all and more", broker.Selector{All: true, Since: time.Now()}, "all, and something else"},
		{"an empty value", match(broker.ByRun, ""), "run is empty"},
		{"another attribute", match("colour", "red"), `not selected by "colour"`},
		{"control characters", match(broker.ByRef, "a\x1b[2J"), "not text in one line"},
		{"too long", match(broker.ByRef, strings.Repeat("a", 513)), "longer than 512 bytes"},
		{"a lease id that lost a letter", match(broker.ByLease, "l1-aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"), "not the id of one"},
		{"a session id for a lease", match(broker.ByLease, "s1-aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"), "not the id of one"},
		{"good", match(broker.ByRef, "refs/heads/ä b"), ""},
	} {
		err := tt.sel.Validate()
		if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: Validate = %v, want %q", tt.name, err, tt.want)
		}
	}
}

func FuzzParseSelector(f *testing.F) {
	for _, seed := range []string{
		"all", `issuer="github" repository-id="456" since=2026-11-25T16:00:00Z`, `ref="refs/heads/\"x y\""`, `run="7" run="7"`,
		"since=2026-11-25T16:00:00.5Z", "all ", `run=7`, `environment=""`, "",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		sel, err := broker.ParseSelector(text)
		if err != nil {
			if sel.All || sel.Match != nil || !sel.Since.IsZero() {
				t.Errorf("ParseSelector(%q) = %v beside an error", text, sel)
			}
			return
		}
		if sel.Validate() != nil || sel.String() != text {
			t.Errorf("ParseSelector(%q) = %q", text, sel)
		}
	})
}
