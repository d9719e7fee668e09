package issuers_test

import (
	"cmp"
	"encoding/json"
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/goccy/go-yaml"

	"github.com/brevet-dev/brevet/issuers"
	"github.com/brevet-dev/brevet/issuers/lab"
	"github.com/brevet-dev/brevet/issuers/presets"
	"github.com/brevet-dev/brevet/issuers/strictjson"
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

// Tokens of every algorithm that a preset lists verify, and of others not.
func TestAlgorithmsOfPresets(t *testing.T) {
	for name, known := range presets.Known() {
		if name == "generic" {
			continue
		}
		for _, alg := range append(known.Algorithms, "ES512", "EdDSA") {
			want := ""
			if !slices.Contains(known.Algorithms, alg) {
				want = issuers.ReasonAlgorithm
			}
			p := start(t, lab.Options{Preset: name, Algorithm: alg})
			check(t, newSet(t, p.config(name)), p.mint(t, nil), want)
		}
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
	object, err := strictjson.Object(string(text), strictjson.Limits{Depth: 16, Members: 200})
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

// The entry that docs/issuers.md shows for a platform takes the example.
func TestGuides(t *testing.T) {
	for name, p := range presets.Known() {
		if name == "generic" {
			continue
		}
		var configs []issuers.Config
		if err := yaml.UnmarshalWithOptions([]byte(presets.Guides()[p.Name].Config), &configs, yaml.Strict()); err != nil || len(configs) != 1 {
			t.Fatalf("%s: %v", name, err)
		}
		c := configs[0]
		c.Audience = cmp.Or(c.Audience, audience)
		newSet(t, c)
		example, err := presets.Example(name, "")
		if err != nil {
			t.Fatal(err)
		}
		if url := cmp.Or(c.URL, p.DefaultURL()); example["iss"] != any(url) {
			t.Errorf("%s: the guide has %s, the example %v", name, url, example["iss"])
		}
		list, isList := example["aud"].([]any)
		if !isList {
			list = []any{example["aud"]}
		}
		for _, aud := range list {
			if text, _ := aud.(string); text != c.Audience && !slices.Contains(c.ExtraAudiences, text) {
				t.Errorf("%s: the example is for %v, which the guide does not take", name, aud)
			}
		}
		if !slices.Contains(list, any(c.Audience)) {
			t.Errorf("%s: the example is for %v, the guide for %s", name, list, c.Audience)
		}
	}
}
