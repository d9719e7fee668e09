package policies

import (
	"math/rand/v2"
	"testing"
)

// What lint holds for proven is tried: no token at random is what it says that
// none can be.
func TestProofs(t *testing.T) {
	a := author{Rand: rand.New(rand.NewPCG(3, 4)), plain: true}
	l, err := newLanguage(lab())
	if err != nil {
		t.Fatal(err)
	}
	p, open := made(t, "", is("id", "7")), made(t, "", is("id", "7"))
	proofs := 0
	for range 1_500 {
		w, flaws := l.compile(a.condition(a.IntN(4)))
		if len(flaws) > 0 {
			continue
		}
		p.when = w
		never, proven := p.witness()
		always, certain := newHunt(open, p).find(func(claims map[string]any) bool { return open.gives(claims) && !w.holds(claims) })
		if never == nil && proven || always == nil && certain {
			proofs++
		}
		for range 60 {
			claims := a.token()
			claims["id"], claims["twin"], claims["event"] = "7", "7", "push"
			if never == nil && proven && p.gives(claims) {
				t.Fatalf("%s\nnever holds, and does for %v", w.source, claims)
			}
			if always == nil && certain && complete(claims) && !p.gives(claims) {
				t.Fatalf("%s\nalways holds, and does not for %v", w.source, claims)
			}
		}
	}
	if proofs < 10 {
		t.Errorf("only %d proofs: too few to say something", proofs)
	}
}

// complete reports whether the token has all that one must have.
func complete(claims map[string]any) bool {
	for _, name := range []string{"ref", "name", "count", "fork"} {
		if _, ok := claims[name]; !ok {
			return false
		}
	}
	return true
}
