package issuers_test

import (
	"encoding/json"
	"errors"
	"reflect"
	"strings"
	"testing"

	"github.com/brevet-dev/brevet/issuers"
	"github.com/brevet-dev/brevet/issuers/presets"
)

// An identity that was stored as JSON comes back as it was.
func TestRecall(t *testing.T) {
	config := issuers.Config{
		Name: "ci", Preset: "generic", URL: "https://ci.example.com", Audience: "https://broker.example.com", ProjectID: "project",
		Claims: map[string]presets.Claim{
			"project": {Type: presets.Int, Kind: presets.Immutable},
			"branch":  {Type: presets.String, Kind: presets.Attacker, Optional: true},
			"groups":  {Type: presets.StringList, Kind: presets.Platform},
			"rerun":   {Type: presets.Bool, Kind: presets.Platform},
		},
	}
	set, err := issuers.New([]issuers.Config{config})
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]any{"project": int64(1 << 60), "groups": []string{"a", "b"}, "rerun": false}
	stored, err := json.Marshal(want)
	if err != nil {
		t.Fatal(err)
	}
	claims := map[string]any{}
	decoder := json.NewDecoder(strings.NewReader(string(stored)))
	decoder.UseNumber()
	if err := decoder.Decode(&claims); err != nil {
		t.Fatal(err)
	}
	id, err := set.Recall("ci", config.URL, "sub", claims)
	if err != nil {
		t.Fatalf("Recall = %v", err)
	}
	if !reflect.DeepEqual(id.Claims, want) || id.Workload.ProjectID != "1152921504606846976" || id.Subject != "sub" {
		t.Errorf("Recall = %+v, want the claims %v", id, want)
	}
	for name, recall := range map[string]func() (*issuers.Identity, error){
		"an issuer that is gone":    func() (*issuers.Identity, error) { return set.Recall("old", config.URL, "sub", claims) },
		"an issuer that is another": func() (*issuers.Identity, error) { return set.Recall("ci", "https://new.example.com", "sub", claims) },
		"claims of another type": func() (*issuers.Identity, error) {
			return set.Recall("ci", config.URL, "sub", map[string]any{"project": "x"})
		},
		"claims that are not all there": func() (*issuers.Identity, error) { return set.Recall("ci", config.URL, "sub", nil) },
	} {
		if id, err := recall(); id != nil || !errors.Is(err, issuers.ErrInvalidToken) {
			t.Errorf("Recall of %s = %v, %v; want ErrInvalidToken", name, id, err)
		}
	}
}
