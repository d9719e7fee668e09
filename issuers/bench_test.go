package issuers_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/golang-jwt/jwt/v5"

	"github.com/brevet-dev/brevet/issuers"
	"github.com/brevet-dev/brevet/issuers/lab"
)

// BenchmarkVerify is the whole way of a good token; compare BenchmarkSignature,
// the one signature in it, and BenchmarkParse, what a stranger without a key
// can make the broker do.
func BenchmarkVerify(b *testing.B) {
	for _, preset := range []string{"github", "gitlab"} {
		p := start(b, lab.Options{Preset: preset})
		benchmarkVerify(b, preset, newSet(b, p.config(preset)), p.mint(b, nil))
	}
	f := newForge(b)
	for _, alg := range []string{"RS256", "PS256", "ES256", "ES384", "EdDSA"} {
		benchmarkVerify(b, "generic/"+alg, newSet(b, f.config()), f.token(b, alg, nil, nil))
	}
}

func benchmarkVerify(b *testing.B, name string, set *issuers.Set, raw string) {
	check(b, set, raw, "")
	b.Run(name, func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			set.Forget()
			if _, err := set.Verify(b.Context(), raw); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// BenchmarkSignature is the floor under BenchmarkVerify.
func BenchmarkSignature(b *testing.B) {
	f := newForge(b)
	for _, alg := range []string{"RS256", "PS256", "ES256", "ES384", "EdDSA"} {
		raw := f.token(b, alg, nil, nil)
		text, signature, public := raw[:strings.LastIndexByte(raw, '.')], signatureOf(b, raw), f.private(alg).Public()
		b.Run(alg, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if err := jwt.GetSigningMethod(alg).Verify(text, signature, public); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkParse is the reading of a good token as text, before anything is
// looked up.
func BenchmarkParse(b *testing.B) {
	for _, preset := range []string{"github", "gitlab"} {
		raw := start(b, lab.Options{Preset: preset}).mint(b, nil)
		b.Run(preset, func(b *testing.B) {
			b.SetBytes(int64(len(raw)))
			b.ReportAllocs()
			for b.Loop() {
				if _, err := issuers.ParseOnly(raw); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkUnknownIssuer is what a stranger costs who has no token at all.
func BenchmarkUnknownIssuer(b *testing.B) {
	p := start(b, lab.Options{})
	set, raw := newSet(b, p.config("github")), p.mint(b, map[string]any{"iss": "https://example.com"})
	b.ReportAllocs()
	for b.Loop() {
		if _, err := set.Verify(b.Context(), raw); err == nil {
			b.Fatal("accepted")
		}
	}
}

// BenchmarkVerifyAgain is the way of a token that was shown before, with the
// cache and without.
func BenchmarkVerifyAgain(b *testing.B) {
	p, set := newCaching(b)
	raw := p.mint(b, nil)
	for _, cached := range []bool{false, true} {
		b.Run(fmt.Sprintf("cached=%t", cached), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if !cached {
					set.Forget()
				}
				if _, err := set.Verify(b.Context(), raw); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
