package policies_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/brevet-dev/brevet/issuers"
	"github.com/brevet-dev/brevet/policies"
)

// TestCompareMissesNothing compares small sets that were made up with all
// tokens of a small world: a token that gains or loses is of a change that says
// so, and what is said to happen happens.
func TestCompareMissesNothing(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	gains, losses := 0, 0
	for round := range 300 {
		a, b := madeUp(t, random), madeUp(t, random)
		d, err := policies.Compare(t.Context(), a, b)
		if err != nil {
			t.Fatal(err)
		}
		checkWitnesses(t, shown(d), a, b)
		said := map[policies.EffectKind]bool{}
		for _, c := range d.Changes {
			for _, e := range c.Effects {
				said[e.Kind] = true
			}
		}
		for kind, token := range inSmallWorld(a, b) {
			if !said[kind] {
				t.Fatalf("round %d: nothing is %s, but for %s:\n%s", round, kind, token, effects(d))
			}
			if kind.IsGain() {
				gains++
			} else {
				losses++
			}
		}
	}
	if gains < 100 || losses < 100 {
		t.Errorf("%d gains and %d losses in all: the test tests little", gains, losses)
	}
}

// shown leaves out the effects that no token shows.
func shown(d *policies.Diff) *policies.Diff {
	out := *d
	out.Changes = nil
	for _, c := range d.Changes {
		c.Effects = slices.DeleteFunc(slices.Clone(c.Effects), func(e policies.Effect) bool { return e.Claims == nil })
		out.Changes = append(out.Changes, c)
	}
	return &out
}

// madeUp returns a set of one to four policies of a small world.
func madeUp(t *testing.T, random *rand.Rand) *policies.Set {
	t.Helper()
	pick := func(list ...string) string { return list[random.IntN(len(list))] }
	files := fstest.MapFS{}
	for i := range 1 + random.IntN(4) {
		text := fmt.Sprintf("policy: p%d\nissuer: robot\nmatch:\n  name: %s\n", i, pick("a", "b", "[a, b]", `{glob: "a*"}`, `{glob: "*b"}`))
		if random.IntN(2) == 0 {
			text += "  vcs-origin: " + pick("x", "y", "[x, y]", `{glob: "x/*"}`) + "\n"
		}
		ttl := pick("1m", "2m")
		text += fmt.Sprintf("grant: [{credential: other, ttl: %s, max_ttl: %s}]\n", ttl, pick("5m", "10m"))
		if random.IntN(4) == 0 {
			text += "mode: shadow\n"
		}
		if random.IntN(4) == 0 {
			text += "when: " + pick(`claims.name.startsWith("a")`, "claims.`vcs-origin` == \"x\"", `claims.name in ["b", "ab"]`) + "\n"
		}
		files[fmt.Sprintf("p%d.yaml", i)] = &fstest.MapFile{Data: []byte(text)}
	}
	o := options()
	o.Issuers["robot"].ProjectID = "name" // a pattern of it fills the pin
	set, err := policies.LoadFS(files, "made up", o)
	if err != nil {
		t.Fatal(err)
	}
	return set
}

// inSmallWorld returns what happens to tokens, with one to which it does.
func inSmallWorld(a, b *policies.Set) map[policies.EffectKind]string {
	out := map[policies.EffectKind]string{}
	for _, name := range strings.Fields("a b ab aab ba bb c") {
		for _, origin := range strings.Fields("x y x/y x/ z") {
			id := robot(name, origin)
			was, errWas := a.Decide(id, "other")
			is, errIs := b.Decide(id, "other")
			token := name + " " + origin
			switch {
			case errWas != nil && errIs == nil:
				out[policies.Gained] = token
			case errWas == nil && errIs != nil:
				out[policies.Lost] = token
			case errWas == nil && (is.Grant.TTL > was.Grant.TTL || is.Grant.MaxTTL > was.Grant.MaxTTL):
				out[policies.More] = token
			}
			if errWas == nil && errIs == nil && (is.Grant.TTL < was.Grant.TTL || is.Grant.MaxTTL < was.Grant.MaxTTL) {
				out[policies.Less] = token
			}
		}
	}
	return out
}

func robot(name, origin string) *issuers.Identity {
	return &issuers.Identity{Issuer: "robot", Claims: map[string]any{"name": name, "vcs-origin": origin}}
}
