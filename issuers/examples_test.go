package issuers_test

import (
	"encoding/json"
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/brevet-dev/brevet/issuers"
	"github.com/brevet-dev/brevet/issuers/lab"
	"github.com/brevet-dev/brevet/issuers/presets"
)

// Every example, of every variant, is signed and verified as a token of its
// platform, and means what its payload says.
func TestExamples(t *testing.T) {
	for name := range presets.Known() {
		if name == "generic" {
			continue
		}
		t.Run(name, func(t *testing.T) {
			p := start(t, lab.Options{Preset: name})
			set := newSet(t, p.config(name))
			for _, variant := range append(presets.Variants(name), "") {
				verifyExample(t, p, set, name, variant)
			}
		})
	}
}

func verifyExample(t *testing.T, p *platform, set *issuers.Set, preset, variant string) {
	t.Helper()
	example, err := presets.Example(preset, variant)
	if err != nil {
		t.Fatal(err)
	}
	changes := maps.Clone(example)
	for _, registered := range []string{"iss", "aud", "exp", "nbf", "iat", "jti"} {
		delete(changes, registered)
	}
	base, err := lab.DefaultClaims(preset)
	if err != nil {
		t.Fatal(err)
	}
	for name := range base {
		if _, kept := changes[name]; !kept {
			changes[name] = nil
		}
	}
	raw, err := p.Forge(audience, lab.Forgery{Claims: changes})
	if err != nil {
		t.Fatal(err)
	}
	id, err := set.Verify(t.Context(), raw)
	if err != nil {
		t.Errorf("%s: %v", variant, err)
		return
	}
	want, err := issuers.ReadClaims(id.Preset, example)
	if err != nil {
		t.Fatal(err)
	}
	if !maps.EqualFunc(id.Claims, want, equalClaims) {
		t.Errorf("%s: claims = %v, want %v", variant, id.Claims, want)
	}
}

// stored returns claims as they come back from where JSON is kept.
func stored(t *testing.T, claims map[string]any) map[string]any {
	t.Helper()
	text, err := json.Marshal(claims)
	if err != nil {
		t.Fatal(err)
	}
	object, err := issuers.ReadJSON(string(text))
	if err != nil {
		t.Fatal(err)
	}
	return object
}

func seconds(t *testing.T, value any) time.Duration {
	t.Helper()
	number, _ := value.(json.Number)
	whole, err := number.Int64()
	if err != nil {
		t.Fatal(err)
	}
	return time.Duration(whole) * time.Second
}

func equalClaims(a, b any) bool {
	list, isList := a.([]string)
	other, isOther := b.([]string)
	return isList == isOther && (isList && slices.Equal(list, other) || !isList && a == b)
}

// An example is of an issuer that fits the preset, whose URL says what the
// claims say, and has a life within the preset's limits.
func TestExamplesFitTheirIssuers(t *testing.T) {
	for name, p := range presets.Known() {
		for _, variant := range append(presets.Variants(name), "") {
			example, err := presets.Example(name, variant)
			if err != nil {
				t.Fatal(err)
			}
			if name == "generic" {
				continue
			}
			url, _ := example["iss"].(string)
			c := issuers.Config{Name: name, Preset: name, URL: url, Audience: audience}
			set := newSet(t, c)
			claims, err := issuers.ReadClaims(p, example)
			if err != nil {
				t.Errorf("%s %s: %v", name, variant, err)
				continue
			}
			subject, _ := example["sub"].(string)
			if _, err := set.Recall(name, url, subject, stored(t, claims)); err != nil {
				t.Errorf("%s %s: %v", name, variant, err)
			}
			iat, exp := seconds(t, example["iat"]), seconds(t, example["exp"])
			if life := exp - iat; life <= 0 || life > p.MaxLifetime || p.MaxAge > p.MaxLifetime {
				t.Errorf("%s %s: lives %v, the preset allows %v at an age of %v", name, variant, life, p.MaxLifetime, p.MaxAge)
			}
		}
	}
}
