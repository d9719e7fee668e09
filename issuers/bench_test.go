package issuers_test

import (
	"encoding/base64"
	"strings"
	"testing"

	"github.com/golang-jwt/jwt/v5"

	"github.com/brevet-dev/brevet/issuers/lab"
)

// BenchmarkVerify is the whole way of a good token; compare BenchmarkRS256, the
// one signature in it.
func BenchmarkVerify(b *testing.B) {
	for _, preset := range []string{"github", "gitlab"} {
		b.Run(preset, func(b *testing.B) {
			p := start(b, lab.Options{Preset: preset})
			set, raw := newSet(b, p.config(preset)), p.mint(b, nil)
			check(b, set, raw, "")
			b.ReportAllocs()
			for b.Loop() {
				if _, err := set.Verify(b.Context(), raw); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkRS256 is the floor under BenchmarkVerify.
func BenchmarkRS256(b *testing.B) {
	p := start(b, lab.Options{})
	raw := p.mint(b, nil)
	dot := strings.LastIndexByte(raw, '.')
	signature, err := base64.RawURLEncoding.DecodeString(raw[dot+1:])
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if err := jwt.SigningMethodRS256.Verify(raw[:dot], signature, p.PublicKey()); err != nil {
			b.Fatal(err)
		}
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
