package policies_test

import (
	"testing"
	"testing/fstest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/brevet-dev/brevet/policies"
)

func TestSummary(t *testing.T) {
	file := func(text string) *fstest.MapFile { return &fstest.MapFile{Data: []byte(text)} }
	set, err := policies.LoadCommit(fstest.MapFS{
		"a.yaml":          file(base),
		"payments/b.yaml": file(base + "mode: shadow\n---\n" + "policy: c\nissuer: gitlab\nmatch: {ref: main}\nunsafe: {reason: an example}\ngrant: [{credential: other, ttl: 1m}]\n"),
		"web/d.yaml":      file(base + "expires: 2026-01-31\n"),
	}, "policies", policies.Origin{Commit: "c0ffee", Signer: "alice"}, options())
	if err != nil {
		t.Fatal(err)
	}
	want := policies.Summary{
		Digest: set.Digest(), Commit: "c0ffee", Signer: "alice", Policies: 4, Tenants: map[string]int{"": 1, "payments": 2, "web": 1},
		Shadow: []string{"payments/shop"}, Unsafe: []string{"payments/c"}, Expired: []string{"web/shop"},
	}
	if diff := cmp.Diff(want, set.Summary(time.Date(2026, 2, 1, 0, 0, 0, 0, time.UTC))); diff != "" {
		t.Error(diff)
	}
	if early := set.Summary(time.Date(2026, 1, 31, 23, 59, 59, 0, time.UTC)); len(early.Expired) != 0 {
		t.Errorf("on its last day: expired %q", early.Expired)
	}
	if none := (*policies.Set)(nil).Summary(time.Now()); none.Policies != 0 || none.Digest != "" {
		t.Errorf("of no set: %+v", none)
	}
}
