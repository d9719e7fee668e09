package policies_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/brevet-dev/brevet/policies"
)

func TestCoverage(t *testing.T) {
	got, err := json.MarshalIndent(explained(t).Coverage(), "", " ")
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "explain/coverage.golden", append(got, '\n'))
}

// Each way is seen by a test of its own.
func TestCoverageOfOnePolicy(t *testing.T) {
	const doc = `policy: a
issuer: robot
match: {name: [x, y]}
when: claims.name == "x" || claims.name == "y"
grant: [{credential: other, ttl: 1m}]
`
	const x, y, z = `- {name: x, claims: {name: x}, allow: [other]}`, `- {name: "y", claims: {name: "y"}, allow: [other]}`, `- {name: z, claims: {name: z}, deny: [other]}`
	tests := []struct {
		tests []string
		want  string // ways seen of all, and what is not seen
	}{
		{nil, `0 of 12: match.name, match.name "x", match.name "y", when, when claims.name == "x", when claims.name == "y"`},
		{[]string{x}, `6 of 12: match.name, match.name "x", match.name "y", when, when claims.name == "x", when claims.name == "y"`},
		{[]string{x, y}, `10 of 12: match.name, when`},
		{[]string{x, z}, `10 of 12: match.name "y", when claims.name == "y"`},
		{[]string{x, y, z}, `12 of 12: `},
	}
	for _, tt := range tests {
		d := doc
		if tt.tests != nil {
			d += "tests:\n" + strings.Join(tt.tests, "\n") + "\n"
		}
		c := mustLoad(t, d).Coverage()
		var unseen []string
		for _, u := range c.Unseen {
			unseen = append(unseen, strings.TrimSpace(u.Path+" "+wantOf(u)))
		}
		if got := fmt.Sprintf("%d of %d: %s", c.Seen, c.Ways, strings.Join(unseen, ", ")); got != tt.want {
			t.Errorf("with %d tests: %s, want %s", len(tt.tests), got, tt.want)
		}
	}
}

// wantOf leaves out what the whole of a list or condition wants.
func wantOf(u policies.Unseen) string {
	if strings.Contains(u.Want, " or ") || strings.Contains(u.Want, "||") {
		return ""
	}
	return u.Want
}

func TestPercent(t *testing.T) {
	for _, tt := range []struct{ seen, ways, want int }{{0, 0, 100}, {0, 3, 0}, {2, 3, 66}, {999, 1000, 99}, {3, 3, 100}} {
		if got := policies.Percent(tt.seen, tt.ways); got != tt.want {
			t.Errorf("Percent(%d, %d) = %d, want %d", tt.seen, tt.ways, got, tt.want)
		}
	}
}
