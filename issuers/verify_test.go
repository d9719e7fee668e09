package issuers_test

import (
	"encoding/base64"
	"encoding/json"
	"maps"
	"math/big"
	"slices"
	"strings"
	"testing"

	"crypto/elliptic"

	"github.com/brevet-dev/brevet/issuers"
	"github.com/brevet-dev/brevet/issuers/lab"
	"github.com/brevet-dev/brevet/issuers/presets"
)

func TestVerifyGitHub(t *testing.T) {
	p := start(t, lab.Options{Preset: "github"})
	set := newSet(t, p.config("github"))
	id, err := set.Verify(t.Context(), p.mint(t, map[string]any{"jti": "one", "repo_property_tier": "gold"}))
	if err != nil {
		t.Fatal(err)
	}
	want := issuers.Workload{
		OwnerID: "123", Owner: "acme", ProjectID: "456", Project: "acme/shop", Run: "11223344556", Attempt: "1",
		Job: "33445566778", Ref: "refs/heads/main", Environment: "production", Actor: "alice", ActorID: "789", Trigger: "push",
	}
	if id.Workload != want {
		t.Errorf("Workload = %+v, want %+v", id.Workload, want)
	}
	if id.Issuer != "github" || id.URL != p.URL || id.Subject != "repo:acme/shop:environment:production" || id.ReplayID != "jti:one" {
		t.Errorf("Verify = %+v", id)
	}
	if life := id.Expires.Sub(id.IssuedAt).Seconds(); life != 300 {
		t.Errorf("the token lives %v s, want 300", life)
	}
	if _, seen := id.Claims["repo_property_tier"]; seen {
		t.Error("an undeclared claim reached the identity")
	}
	if preset, ok := set.Preset("github"); !ok || preset != id.Preset {
		t.Error("Preset is not the identity's")
	}
	if _, ok := set.Preset("other"); ok {
		t.Error("Preset knows an issuer that is not configured")
	}
}

func TestVerifyGitLab(t *testing.T) {
	p := start(t, lab.Options{Preset: "gitlab"})
	set := newSet(t, p.config("gitlab"))
	id, err := set.Verify(t.Context(), p.mint(t, map[string]any{
		"groups_direct": []string{"acme", "acme/ops"}, "job_source": json.RawMessage("null"),
	}))
	if err != nil {
		t.Fatal(err)
	}
	if id.Claims["runner_id"] != int64(1001) {
		t.Errorf("runner_id = %#v, want int64", id.Claims["runner_id"])
	}
	if groups, _ := id.Claims["groups_direct"].([]string); !slices.Equal(groups, []string{"acme", "acme/ops"}) {
		t.Errorf("groups_direct = %#v", id.Claims["groups_direct"])
	}
	if _, present := id.Claims["job_source"]; present {
		t.Error("an optional claim that is null is present")
	}
	if id.Workload.Job != "33445566" || id.Workload.Trigger != "push" || id.Preset.Replay != presets.Bind {
		t.Errorf("Verify = %+v", id)
	}
}

// genericConfig declares one claim of each type.
func genericConfig(p *platform) issuers.Config {
	c := p.config("generic")
	c.Claims = map[string]presets.Claim{
		"project": {Type: presets.Int, Kind: presets.Immutable},
		"debug":   {Type: presets.Bool, Kind: presets.Platform, Optional: true},
		"teams":   {Type: presets.StringList, Kind: presets.Mutable, Optional: true},
		"sub":     {Type: presets.String, Kind: presets.Mutable},
	}
	c.ProjectID, c.Algorithms, c.Replay = "project", []string{"RS256", "ES256"}, presets.Reuse
	return c
}

func TestVerifyGeneric(t *testing.T) {
	p := start(t, lab.Options{Preset: "generic", Claims: map[string]any{"project": 3000000000, "debug": true}})
	set := newSet(t, genericConfig(p))
	id, err := set.Verify(t.Context(), p.forge(t, lab.Forgery{
		Claims: map[string]any{"jti": nil, "nbf": nil, "aud": []string{audience}},
		Header: map[string]any{"typ": nil},
	}))
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]any{"project": int64(3000000000), "debug": true, "sub": "workload"}
	if !maps.Equal(id.Claims, want) || id.Workload != (issuers.Workload{ProjectID: "3000000000"}) {
		t.Errorf("Verify = %+v", id)
	}
	if !strings.HasPrefix(id.ReplayID, "sha256:") || len(id.ReplayID) != len("sha256:")+64 {
		t.Errorf("ReplayID = %q", id.ReplayID)
	}
	for name, wrong := range map[string]any{"project": "1", "debug": "true", "teams": []any{"a", 1}, "sub": 1} {
		check(t, set, p.mint(t, map[string]any{name: wrong}), issuers.ReasonClaimType)
	}
	check(t, set, p.mint(t, map[string]any{"project": 1.5}), issuers.ReasonClaimType)
	// Both algorithms are the issuer's, but a key has one.
	check(t, set, p.forge(t, lab.Forgery{Header: map[string]any{"alg": "ES256"}}), issuers.ReasonAlgorithm)
	check(t, set, p.mint(t, map[string]any{"project": json.Number("9223372036854775808")}), issuers.ReasonClaimType)
}

// From one ECDSA signature (r, s) anybody computes (r, n-s), which is valid
// too. Both spellings must be the same token to the replay barrier.
func TestMalleableSignature(t *testing.T) {
	p := start(t, lab.Options{Preset: "generic", Algorithm: "ES256", Claims: map[string]any{"project": 1}})
	set := newSet(t, genericConfig(p))
	for _, claims := range []map[string]any{nil, {"jti": nil}} {
		raw := p.mint(t, claims)
		signed, signature := raw[:strings.LastIndexByte(raw, '.')], raw[strings.LastIndexByte(raw, '.')+1:]
		rs, err := base64.RawURLEncoding.DecodeString(signature)
		if err != nil {
			t.Fatal(err)
		}
		s := new(big.Int).Sub(elliptic.P256().Params().N, new(big.Int).SetBytes(rs[32:]))
		s.FillBytes(rs[32:])
		one, err := set.Verify(t.Context(), raw)
		if err != nil {
			t.Fatal(err)
		}
		other, err := set.Verify(t.Context(), signed+"."+base64.RawURLEncoding.EncodeToString(rs))
		if err != nil {
			t.Fatalf("the mirrored signature: %v", err)
		}
		if one.ReplayID != other.ReplayID {
			t.Errorf("ReplayID %q and %q of one token", one.ReplayID, other.ReplayID)
		}
	}
}

func TestKnownPresets(t *testing.T) {
	for name, p := range presets.Known() {
		if p.Name != name || p.Docs == "" || p.MaxAge <= 0 || p.MaxLifetime <= 0 || p.Replay == "" || len(p.Algorithms) == 0 {
			t.Errorf("preset %s is not complete: %+v", name, p)
		}
		for _, claim := range []string{
			p.OwnerID, p.Owner, p.ProjectID, p.Project, p.Run, p.Attempt, p.Job, p.Ref, p.Environment, p.Actor, p.ActorID, p.Trigger,
		} {
			if _, declared := p.Claims[claim]; claim != "" && !declared {
				t.Errorf("preset %s: the workload's claim %q is not declared", name, claim)
			}
		}
		for claim, c := range p.Claims {
			if c.Doc == "" || c.Kind == "" || c.Type == "" {
				t.Errorf("preset %s: claim %s is not complete", name, claim)
			}
		}
	}
	known := presets.Known()
	delete(known["github"].Claims, "ref")
	if _, kept := presets.Known()["github"].Claims["ref"]; !kept {
		t.Error("a caller changed the known presets")
	}
}
