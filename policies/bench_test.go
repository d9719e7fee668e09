package policies_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/brevet-dev/brevet/policies"
)

// manyPolicies writes n policies of as many projects, fifty in a file; acme/shop's
// is one of them. more gives more lines of the i-th, such as its condition.
func manyPolicies(tb testing.TB, n int, more func(i int) string) string {
	tb.Helper()
	const perFile = 50
	dir := tb.TempDir()
	for from := 0; from < n; from += perFile {
		var b strings.Builder
		for i := from; i < min(n, from+perFile); i++ {
			fmt.Fprintf(&b, `---
policy: p%d
description: main of a repository may deploy from the production environment
issuer: github
match:
  repository_id: "%d"
  repository_owner_id: "123"
  ref: refs/heads/main
  environment: production
  event_name: [push, schedule]
names: {repository: acme/shop}
%sgrant:
- {credential: other, ttl: 1m}
- {credential: registry, ttl: 5m, max_ttl: 15m}
`, i, 456+i, more(i))
		}
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprintf("%d.yaml", from)), []byte(b.String()), 0o600); err != nil {
			tb.Fatal(err)
		}
	}
	return dir
}

// The conditions that benchmarked policies have: none, the same, or each its own.
func noWhen(int) string   { return "" }
func sameWhen(int) string { return "when: claims.run_attempt == \"1\"\n" }
func otherWhen(i int) string {
	return fmt.Sprintf("when: claims.run_attempt == \"1\" && claims.ref != \"refs/heads/%d\" && claims.repository.startsWith(\"acme/\")\n", i)
}

// tested has a condition of its own and two tests.
func tested(i int) string {
	claims := fmt.Sprintf(`repository_id: "%d", repository_owner_id: "123", repository: acme/shop, ref: refs/heads/main, environment: production, run_attempt: "1"`, 456+i)
	return otherWhen(i) + "tests:\n- {name: main, claims: {" + claims + ", event_name: push}, allow: [other, registry]}\n" +
		"- {name: a pull request, claims: {" + claims + ", event_name: pull_request}, deny: [other, registry]}\n"
}

// processor returns what this process took of processors so far: on a busy
// machine it says more than a clock.
func processor(tb testing.TB) time.Duration {
	tb.Helper()
	var used syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &used); err != nil {
		tb.Fatal(err)
	}
	return time.Duration(used.Utime.Nano() + used.Stime.Nano())
}

// BenchmarkDecide measures one decision by a policy with five conditions, alone
// and among 9 999 for other projects of the same issuer, with and without a
// when. "x-scan" is how many times longer it takes without the index.
func BenchmarkDecide(b *testing.B) {
	id := github(nil)
	decide := func(b *testing.B, set *policies.Set) {
		if _, err := set.Decide(id, "other"); err != nil {
			b.Fatal(err)
		}
	}
	for name, when := range map[string]func(int) string{"plain": noWhen, "when": sameWhen} {
		for _, n := range []int{1, 100, 10_000} {
			set, err := policies.Load(manyPolicies(b, n, when), options())
			if err != nil {
				b.Fatal(err)
			}
			scan := set.Unindexed()
			b.Run(fmt.Sprintf("%s/policies=%d", name, n), func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					decide(b, set)
				}
				once := b.Elapsed() / time.Duration(b.N)
				const scans = 100
				start := time.Now()
				for range scans {
					decide(b, scan)
				}
				b.ReportMetric(float64(time.Since(start)/scans)/float64(max(1, once)), "x-scan")
			})
		}
	}
}

// BenchmarkLoad measures loading 10 000 policies from 200 files. "cpu-s" are
// seconds of processor time.
func BenchmarkLoad(b *testing.B) {
	for name, when := range map[string]func(int) string{"plain": noWhen, "same-when": sameWhen, "other-when": otherWhen, "tested": tested} {
		dir := manyPolicies(b, 10_000, when)
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			start := processor(b)
			for b.Loop() {
				if _, err := policies.Load(dir, options()); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric((processor(b)-start).Seconds()/float64(b.N), "cpu-s")
		})
	}
}
