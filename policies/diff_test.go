package policies_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/brevet-dev/brevet/issuers"
	"github.com/brevet-dev/brevet/policies"
)

// base is a policy that the tests change.
const base = `policy: shop
issuer: github
match: {repository_id: "456", ref: refs/heads/main, event_name: [push, workflow_dispatch], environment: production}
grant:
- {credential: deploy, ttl: 15m, max_ttl: 1h}
`

// effects writes a diff in short: the kind of each change, and its effects.
func effects(d *policies.Diff) string {
	var lines []string
	for _, c := range d.Changes {
		line := fmt.Sprintf("%s %s:", c.Kind, c.Policy)
		for _, e := range c.Effects {
			line += fmt.Sprintf(" %s %s", e.Kind, e.Credential)
			if len(e.Terms) > 0 {
				line += " (" + strings.Join(e.Terms, ", ") + ")"
			}
		}
		lines = append(lines, line)
	}
	return strings.Join(lines, "\n")
}

func TestCompare(t *testing.T) {
	swap := func(old, new string) []string { return []string{strings.Replace(base, old, new, 1)} }
	for _, tt := range []struct {
		name     string
		old, new []string
		want     string
	}{
		{"nothing", []string{base}, []string{base}, ""},
		{"other order, other words", []string{base}, []string{"# a remark\n" + strings.Replace(base, "[push, workflow_dispatch]", "[workflow_dispatch, push]\n  ", 1) + "description: x\n"}, ""},
		{"renamed", []string{base}, swap("shop", "store"), ""},
		{"renamed, and another of the old name", []string{base}, []string{strings.Replace(base, "shop", "store", 1), strings.Replace(base, "456", "457", 1)}, "added shop: gained deploy"},
		{"added", []string{base}, []string{base, strings.NewReplacer("shop", "b", "456", "457").Replace(base)}, "added b: gained deploy"},
		{"removed", []string{base, strings.NewReplacer("shop", "b", "456", "457").Replace(base)}, []string{base}, "removed b: lost deploy"},
		{"a claim less", []string{base}, swap(", environment: production", ""), "loosened shop: gained deploy"},
		{"a value more", []string{base}, swap(`"456"`, `["456", "457"]`), "loosened shop: gained deploy"},
		{"a value less", []string{base}, swap("[push, workflow_dispatch]", "push"), "tightened shop: lost deploy"},
		{"another value", []string{base}, swap("refs/heads/main", "refs/heads/next"), "changed shop: gained deploy lost deploy"},
		{"a glob for a value", []string{base}, swap("refs/heads/main", `{glob: "refs/heads/ma*"}`), "loosened shop: gained deploy"},
		{"a condition", []string{base}, []string{base + "when: claims.run_attempt == \"1\"\n"}, "tightened shop: lost deploy"},
		{"no condition any more", []string{base + "when: claims.run_attempt == \"1\"\n"}, []string{base}, "loosened shop: gained deploy"},
		{"a credential more", []string{base}, []string{base + "- {credential: registry, ttl: 5m}\n"}, "loosened shop: gained registry"},
		{"longer", []string{base}, swap("max_ttl: 1h", "max_ttl: 2h"), "loosened shop: more deploy (max_ttl 2h instead of 1h)"},
		{"shorter", []string{base}, swap("max_ttl: 1h", "max_ttl: 30m"), "tightened shop: less deploy (max_ttl 30m instead of 1h)"},
		{"longer and shorter", []string{base}, swap("ttl: 15m, max_ttl: 1h", "ttl: 30m, max_ttl: 45m"),
			"changed shop: more deploy (ttl 30m instead of 15m) less deploy (max_ttl 45m instead of 1h)"},
		{"no limit any more", []string{base + "limits: {live: 5}\n"}, []string{base}, "loosened shop: more deploy (live of the policy none instead of 5)"},
		{"enforced", []string{base + "mode: shadow\n"}, []string{base}, "loosened shop: gained deploy"},
		{"in shadow", []string{base}, []string{base + "mode: shadow\n"}, "tightened shop: lost deploy"},
		{"added in shadow", []string{base}, []string{base, strings.NewReplacer("shop", "b", "456", "457").Replace(base) + "mode: shadow\n"}, "added b:"},
		{"an end", []string{base}, []string{base + "expires: 2999-01-01\n"}, "tightened shop: less deploy (expires 2999-01-02T00:00:00Z instead of never)"},
		{"no end any more", []string{base + "expires: 2999-01-01\n"}, []string{base}, "loosened shop: more deploy (expires never instead of 2999-01-02T00:00:00Z)"},
		{"no end, and another name", []string{base + "expires: 2999-01-01\n"}, []string{strings.Replace(base, "shop", "store", 1)},
			"removed shop:\nadded store: more deploy (expires never instead of 2999-01-02T00:00:00Z)"},
		{"it had ended", []string{base, strings.NewReplacer("shop", "b", "456", "457").Replace(base) + "expires: 2000-01-01\n"},
			[]string{base, strings.NewReplacer("shop", "b", "456", "457").Replace(base)}, "loosened b: gained deploy"},
		{"split in two", []string{base}, []string{
			strings.Replace(base, "[push, workflow_dispatch]", "push", 1),
			strings.Replace(strings.Replace(base, "[push, workflow_dispatch]", "workflow_dispatch", 1), "shop", "b", 1),
		}, "added b:\nchanged shop:"},
		{"covered by another", []string{base, strings.NewReplacer("shop", "b", "[push, workflow_dispatch]", "push").Replace(base)}, []string{base}, "removed b:"},
		{"a name", []string{base}, []string{base + "names: {repository: acme/shop}\n"}, "tightened shop: lost deploy"},
		{"denied", []string{base}, []string{base, "guardrails: no-rerun\ndeny: [{reason: x, match: {run_attempt: \"2\"}}]\nissuer: github\n"}, "guardrails no-rerun: less  (what policies may become)\ntightened shop: lost deploy"},
		{"denied no more", []string{base, "guardrails: no-rerun\nissuer: github\ndeny: [{reason: x, match: {run_attempt: \"2\"}}]\n"}, []string{base}, "guardrails no-rerun: more  (what policies may become)\nloosened shop: gained deploy"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			a, b := mustLoad(t, tt.old...), mustLoad(t, tt.new...)
			d, err := policies.Compare(t.Context(), a, b)
			if err != nil {
				t.Fatal(err)
			}
			if got := effects(d); got != tt.want {
				t.Errorf("got:\n%s\nwant:\n%s", got, tt.want)
			}
			checkWitnesses(t, d, a, b)
			if gains := strings.Contains(tt.want, "gained") || strings.Contains(tt.want, "more"); gains != (d.Gains() > 0) {
				t.Errorf("Gains() = %d", d.Gains())
			}
		})
	}
}

// checkWitnesses asks both sets about each token that a diff shows.
func checkWitnesses(t *testing.T, d *policies.Diff, a, b *policies.Set) {
	t.Helper()
	for _, c := range d.Changes {
		for _, e := range c.Effects {
			if e.Credential == "" || strings.HasPrefix(strings.Join(e.Terms, ""), "expires") {
				continue
			}
			if e.Claims == nil {
				t.Errorf("%s of %s by %s: no token shows it", e.Kind, e.Credential, c.Policy)
				continue
			}
			id := &issuers.Identity{Issuer: e.Issuer, Claims: e.Claims}
			_, was := a.Decide(id, e.Credential)
			_, is := b.Decide(id, e.Credential)
			if wasWanted, isWanted := e.Kind != policies.Gained, e.Kind != policies.Lost; wasWanted != (was == nil) || isWanted != (is == nil) {
				t.Errorf("%s of %s by %s: the token %v was: %v, is: %v", e.Kind, e.Credential, c.Policy, e.Claims, was, is)
			}
		}
	}
}

// A gain that can be neither shown nor ruled out is one.
func TestCompareUnsure(t *testing.T) {
	old := base + "when: claims.run_attempt.matches(\"^(?:[0-9]{7}a)$\")\n"
	now := base + "when: claims.run_attempt.matches(\"^(?:[0-9]{7}b)$\")\n"
	d, err := policies.Compare(t.Context(), mustLoad(t, old), mustLoad(t, now))
	if err != nil {
		t.Fatal(err)
	}
	if d.Gains() == 0 {
		t.Errorf("no gain: %s", effects(d))
	}
}

// So are terms of a policy for which no token is found.
func TestCompareUnsureTerms(t *testing.T) {
	old := base + "when: claims.run_attempt.matches(\"^(?:[0-9]{7}a)$\")\n"
	d, err := policies.Compare(t.Context(), mustLoad(t, old), mustLoad(t, strings.Replace(old, "max_ttl: 1h", "max_ttl: 2h", 1)))
	if err != nil {
		t.Fatal(err)
	}
	if got, want := effects(d), "loosened shop: more deploy (max_ttl 2h instead of 1h)"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestCompareEnds(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := policies.Compare(ctx, mustLoad(t, base), mustLoad(t, strings.Replace(base, "456", "1", 1))); !errors.Is(err, context.Canceled) {
		t.Errorf("Compare = %v", err)
	}
	if _, err := policies.Compare(t.Context(), nil, mustLoad(t, base)); err == nil {
		t.Error("Compare with nothing: no error")
	}
}

func TestReplay(t *testing.T) {
	a := mustLoad(t, base, strings.NewReplacer("shop", "b", "456", "457").Replace(base))
	b := mustLoad(t, strings.Replace(base, ", environment: production", "", 1), strings.NewReplacer("shop", "c", "456", "458", "max_ttl: 1h", "max_ttl: 2h").Replace(base))
	r := policies.NewReplay(a, b)
	token := func(id, environment string) map[string]any {
		claims := github(map[string]any{"repository_id": id, "repository": "acme/" + id}).Claims
		raw := map[string]any{}
		for name, v := range claims {
			switch v.(type) {
			case string, bool:
				raw[name] = v
			}
		}
		raw["environment"] = environment
		return raw
	}
	for range 3 { // each counts once
		r.Add("github", token("456", "production"))
		r.Add("github", token("456", "staging"))
		r.Add("github", token("456", "test"))
		r.Add("github", token("457", "production"))
		r.Add("github", token("458", "production"))
		r.Add("nobody", token("458", "production"))
		r.Add("github", map[string]any{"repository_id": true})
	}
	var got []string
	for _, o := range r.Outcomes() {
		got = append(got, fmt.Sprintf("%s %s %s %d by %s", o.Kind, o.ProjectID, o.Credential, o.Tokens, o.Policy))
	}
	want := "gained 456 deploy 2 by shop\ngained 458 deploy 1 by c\nlost 457 deploy 1 by b"
	if text := strings.Join(got, "\n"); text != want {
		t.Errorf("got:\n%s\nwant:\n%s", text, want)
	}
	if r.Tokens != 5 || r.Unknown != 2 || r.Gains() != 2 {
		t.Errorf("%d tokens, %d unknown, %d gains; want 5, 2, 2", r.Tokens, r.Unknown, r.Gains())
	}
}

// Whoever reviews a change is told of what is unsafe in it, and of nothing that
// was so before.
func TestCompareWarns(t *testing.T) {
	const ttl = "{credential: other, ttl: 1m}"
	const warning = "unsafe, it does not pin the repository; a ref or an environment; the event: a test"
	open, longer := document("a", acme, ttl, unsafe), document("a", acme, "{credential: other, ttl: 2m}", unsafe)
	for _, tt := range []struct {
		name, old, new string
		warned         bool
	}{
		{"added", document("b", shop, ttl, ""), open, true},
		{"changed", open, longer, true},
		{"made unsafe", document("a", shop, ttl, ""), open, true},
		{"made safe", open, document("a", shop, ttl, ""), false},
		{"removed", open, document("b", shop, ttl, ""), false},
		{"as before", open, open, false},
	} {
		d, err := policies.Compare(t.Context(), mustLoad(t, tt.old), mustLoad(t, tt.new))
		if err != nil {
			t.Fatal(err)
		}
		warned := slices.ContainsFunc(d.Changes, func(c policies.Difference) bool { return slices.Contains(c.Details, warning) })
		if warned != tt.warned {
			t.Errorf("%s: Compare = %+v, want a warning: %v", tt.name, d.Changes, tt.warned)
		}
	}
}

// A credential that the new configuration does not have is lost, too.
func TestReplayOfRemovedCredential(t *testing.T) {
	after := options()
	delete(after.Credentials, "other")
	b, err := policies.Load(write(t, document("read", shop, "{credential: read, ttl: 1m}", "")), after)
	if err != nil {
		t.Fatal(err)
	}
	r := policies.NewReplay(mustLoad(t, shopPolicy), b)
	claims := github(nil).Claims
	for _, name := range []string{"attempt", "groups"} { // a recorded token's have other types
		delete(claims, name)
	}
	claims["attempt"] = json.Number("1")
	r.Add("github", claims)
	if list := r.Outcomes(); len(list) != 2 || list[0].Kind != policies.Gained || list[1].Kind != policies.Lost || list[1].Credential != "other" {
		t.Errorf("Outcomes = %+v, want read gained and other lost", list)
	}
}

// BenchmarkCompare: two sets of 10 000 policies, of which 100 differ.
func BenchmarkCompare(b *testing.B) {
	dir, other := b.TempDir(), b.TempDir()
	for i := range 10_000 {
		text := strings.NewReplacer("shop", fmt.Sprint("p", i), "456", fmt.Sprint(i)).Replace(base)
		changed := text
		if i%100 == 0 {
			changed = strings.Replace(text, ", environment: production", "", 1)
		}
		for folder, text := range map[string]string{dir: text, other: changed} {
			if err := os.WriteFile(filepath.Join(folder, fmt.Sprint(i, ".yaml")), []byte(text), 0o600); err != nil {
				b.Fatal(err)
			}
		}
	}
	old, err := policies.Load(dir, options())
	if err != nil {
		b.Fatal(err)
	}
	now, err := policies.Load(other, options())
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		start := time.Now()
		d, err := policies.Compare(b.Context(), old, now)
		if err != nil || d.Gains() != 100 {
			b.Fatalf("%d gains, %v, after %s", d.Gains(), err, time.Since(start))
		}
	}
}
