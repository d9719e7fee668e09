package policies_test

import (
	"errors"
	"flag"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/brevet-dev/brevet/issuers"
	"github.com/brevet-dev/brevet/issuers/presets"
	"github.com/brevet-dev/brevet/policies"
	"github.com/brevet-dev/brevet/policies/strictyaml"
)

var update = flag.Bool("update", false, "write the golden files")

// options has three issuers: github and gitlab, each with a claim of every type,
// both ids and pins, and robot, which has none of them.
func options() policies.Options {
	id := presets.Claim{Type: presets.String, Kind: presets.Immutable}
	text := presets.Claim{Type: presets.String, Kind: presets.Mutable}
	optional := presets.Claim{Type: presets.String, Kind: presets.Attacker, Optional: true}
	return policies.Options{
		Issuers: map[string]*presets.Preset{
			"github": {
				Claims: map[string]presets.Claim{
					"repository_id": id, "repository_owner_id": id, "repository": text,
					"ref": text, "ref_protected": optional, "event_name": text, "run_id": id, "run_attempt": text, "environment": optional,
					"attempt": {Type: presets.Int}, "fork": {Type: presets.Bool},
					"groups": {Type: presets.StringList, Optional: true},
				},
				ProjectID: "repository_id", OwnerID: "repository_owner_id", Run: "run_id", Trigger: "event_name",
				Pins: []presets.Pin{
					{Name: "the repository", AnyOf: []presets.Gate{{{Claim: "repository_id"}}}},
					{Name: "a ref or an environment", AnyOf: []presets.Gate{
						{{Claim: "environment"}}, {{Claim: "ref", Exact: true}}, {{Claim: "ref_protected", Value: "true"}},
					}},
					{Name: "the event", AnyOf: []presets.Gate{{{Claim: "event_name"}}}},
				},
				Risks: []presets.Risk{{Claim: "event_name", Values: []string{"pull_request", "pull_request_target"}, Why: "runs code that nobody has reviewed"}},
			},
			"gitlab": {
				Claims: map[string]presets.Claim{
					"project_id": id, "namespace_id": id, "ref_protected": text, "ref": text,
					"runner_id": {Type: presets.Int}, "groups": {Type: presets.StringList},
				},
				ProjectID: "project_id", OwnerID: "namespace_id",
				Pins: []presets.Pin{
					{Name: "the project", AnyOf: []presets.Gate{{{Claim: "project_id"}}}},
					{Name: "protected refs", AnyOf: []presets.Gate{{{Claim: "ref_protected", Value: "true"}}}},
				},
			},
			"robot": {Claims: map[string]presets.Claim{"name": text, "vcs-origin": text}},
		},
		Credentials: map[string]policies.Credential{
			"deploy":    {MinTTL: 15 * time.Minute, MaxTTL: 2 * time.Hour},
			"registry":  {MaxTTL: 15 * time.Minute},
			"unlimited": {}, "other": {}, "read": {Read: true},
			"artifacts": {DataKey: true}, "artifacts-2": {DataKey: true},
		},
	}
}

// write puts documents into a new folder, named by their place in the list.
func write(t testing.TB, docs ...string) string {
	t.Helper()
	dir := t.TempDir()
	for i, doc := range docs {
		name := filepath.Join(dir, string(rune('a'+i))+".yaml")
		if err := os.WriteFile(name, []byte(doc), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func mustLoad(t testing.TB, docs ...string) *policies.Set {
	t.Helper()
	set, err := policies.Load(write(t, docs...), options())
	if err != nil {
		t.Fatal(err)
	}
	return set
}

// messages returns the problems that loading one document gives, without the
// name of the file.
func messages(t testing.TB, doc string) []string {
	t.Helper()
	set, err := policies.Load(write(t, doc), options())
	if err == nil {
		return nil
	}
	var problems strictyaml.Problems
	if !errors.As(err, &problems) || set != nil {
		t.Fatalf("Load = %v, %v (%T), want nil and a strictyaml.Problems", set, err, err)
	}
	var list []string
	for _, p := range problems {
		p.File = filepath.Base(p.File)
		list = append(list, p.String())
	}
	return list
}

// github returns the identity of a push to main of acme/shop, with changes; a
// nil value removes a claim.
func github(changes map[string]any) *issuers.Identity {
	claims := map[string]any{
		"repository_id": "456", "repository_owner_id": "123", "repository": "acme/shop",
		"ref": "refs/heads/main", "event_name": "push", "run_attempt": "1", "environment": "production",
		"attempt": int64(1), "fork": false, "groups": []string{"build"},
	}
	for name, v := range changes {
		claims[name] = v
		if v == nil {
			delete(claims, name)
		}
	}
	return &issuers.Identity{Issuer: "github", Claims: claims}
}

// Match blocks that pin all that github asks for: the project, and the owner
// only.
const (
	shop = `{repository_id: "456", ref: refs/heads/main, event_name: [push, schedule]}`
	acme = `{repository_owner_id: "123"}`
)

// unsafe lets a document load without pins.
const unsafe = `unsafe: {reason: "a test"}`
