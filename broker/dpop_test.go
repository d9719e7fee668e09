package broker_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/brevet-dev/brevet/broker"
)

func TestVerifyProof(t *testing.T) {
	key, url := newKey(t), brokerURL+"/v1/token"
	now := time.Now()
	tests := []struct {
		name string
		edit func(h, c map[string]any)
		want string // part of the error; "" accepts
	}{
		{"as it should be", nil, ""},
		{"a minute old", func(_, c map[string]any) { c["iat"] = now.Add(-59 * time.Second).Unix() }, ""},
		{"another method", func(_, c map[string]any) { c["htm"] = "GET" }, "htm"},
		{"another url", func(_, c map[string]any) { c["htu"] = "https://other.example.com/v1/token" }, "htu"},
		{"url with a query", func(_, c map[string]any) { c["htu"] = url + "?x=1" }, "htu"},
		{"too old", func(_, c map[string]any) { c["iat"] = now.Add(-2 * time.Minute).Unix() }, "iat"},
		{"from the future", func(_, c map[string]any) { c["iat"] = now.Add(2 * time.Minute).Unix() }, "iat"},
		{"without iat", func(_, c map[string]any) { delete(c, "iat") }, "iat"},
		{"iat is a fraction", func(_, c map[string]any) { c["iat"] = float64(now.Unix()) + 0.5 }, "iat"},
		{"without jti", func(_, c map[string]any) { delete(c, "jti") }, "jti"},
		{"a huge jti", func(_, c map[string]any) { c["jti"] = strings.Repeat("x", 300) }, "jti"},
		{"another typ", func(h, _ map[string]any) { h["typ"] = "JWT" }, "typ"},
		{"without typ", func(h, _ map[string]any) { delete(h, "typ") }, "typ"},
		{"without a key", func(h, _ map[string]any) { delete(h, "jwk") }, "jwk"},
		{"with a private key", func(h, _ map[string]any) { h["jwk"].(map[string]any)["d"] = "AA" }, "private"},
		{"with another curve", func(h, _ map[string]any) { h["jwk"].(map[string]any)["crv"] = "P-384" }, "P-256"},
		{"with a point off the curve", func(h, _ map[string]any) { h["jwk"].(map[string]any)["x"] = strings.Repeat("A", 43) }, "P-256"},
		{"with another's key", func(h, _ map[string]any) { h["jwk"] = keyOf(t) }, "signature"},
		{"with a kid", func(h, _ map[string]any) { h["kid"] = "1" }, "member"},
		{"with crit", func(h, _ map[string]any) { h["crit"] = []string{"x"} }, "member"},
		{"with x5u", func(h, _ map[string]any) { h["x5u"] = "https://x.example.com" }, "member"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p, err := broker.VerifyProof(key.sign(t, "POST", url, "", tt.edit), "POST", url, now)
			if tt.want == "" {
				if err != nil || p.KeyThumbprint == "" || p.ID == "" {
					t.Fatalf("VerifyProof = %+v, %v", p, err)
				}
				return
			}
			if !errors.Is(err, broker.ErrProof) || !strings.Contains(err.Error(), tt.want) || p != nil {
				t.Errorf("VerifyProof = %v, %v; want an error about %s", p, err, tt.want)
			}
		})
	}
}

func keyOf(t *testing.T) map[string]any {
	other := newKey(t)
	point, err := other.PublicKey.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	return map[string]any{"kty": "EC", "crv": "P-256", "x": coordinate(point[1:33]), "y": coordinate(point[33:])}
}

// The vector of RFC 7638 is an RSA key; this one is RFC 9449's, section 6.1.
func TestThumbprintVector(t *testing.T) {
	const proof = "eyJ0eXAiOiJkcG9wK2p3dCIsImFsZyI6IkVTMjU2IiwiandrIjp7Imt0eSI6IkVDIiwieCI6Imw4dEZyaHgtMzR0VjNoUklDUkRZOXpDa0RscEJoRjQyVVFVZldWQVdCRnMiLCJ5IjoiOVZFNGpmX09rX282NHpiVFRsY3VOSmFqSG10NnY5VERWclUwQ2R2R1JEQSIsImNydiI6IlAtMjU2In19.eyJqdGkiOiItQndDM0VTYzZhY2MybFRjIiwiaHRtIjoiUE9TVCIsImh0dSI6Imh0dHBzOi8vc2VydmVyLmV4YW1wbGUuY29tL3Rva2VuIiwiaWF0IjoxNTYyMjYyNjE2fQ.2-GxA6T8lP4vfrg8v-FdWP0A0zdrj8igiMLvqRMUvwnQg4PtFLbdLXiOSsX0x7NVY-FNyJK70nfbV37xRZT3Lg"
	p, err := broker.VerifyProof(proof, "POST", "https://server.example.com/token", time.Unix(1562262616, 0))
	if err != nil {
		t.Fatal(err)
	}
	if want := "0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I"; p.KeyThumbprint != want {
		t.Errorf("thumbprint = %s, want %s", p.KeyThumbprint, want)
	}
}

func FuzzVerifyProof(f *testing.F) {
	f.Add("a.b.c")
	f.Add("eyJ0eXAiOiJkcG9wK2p3dCIsImFsZyI6IkVTMjU2IiwiandrIjp7fX0.e30.AA")
	f.Fuzz(func(t *testing.T, header string) {
		if p, err := broker.VerifyProof(header, "POST", "u", time.Unix(0, 0)); (p == nil) == (err == nil) || err != nil && !errors.Is(err, broker.ErrProof) {
			t.Errorf("VerifyProof(%q) = %v, %v", header, p, err)
		}
	})
}

func FuzzShardOf(f *testing.F) {
	f.Add("l17-aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa")
	f.Add("l-1-x")
	f.Add("l64-")
	f.Fuzz(func(t *testing.T, id string) {
		shard, err := broker.ShardOf('l', id)
		if err == nil && (shard < 0 || shard >= broker.Shards || strings.ContainsAny(id, "{}: \n")) {
			t.Errorf("ShardOf(%q) = %d", id, shard)
		}
	})
}

func BenchmarkVerifyProof(b *testing.B) {
	t := &testing.T{}
	proof := newKey(t).sign(t, "POST", "u", "", nil)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := broker.VerifyProof(proof, "POST", "u", time.Now()); err != nil {
			b.Fatal(err)
		}
	}
}
