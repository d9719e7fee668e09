package tpm_test

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/brevet-dev/brevet/broker/keys/tpm"
	"github.com/brevet-dev/brevet/broker/keys/trust"
	"github.com/brevet-dev/brevet/test/servers"
)

// state is root.json, as its documentation says it is.
type state map[string]any

func (s state) key(name string) map[string]any { return s[name].(map[string]any) }

// TestState: a state in which anything was exchanged is refused, before the TPM
// is asked for anything but a key that it cannot have.
func TestState(t *testing.T) {
	t.Parallel()
	s := servers.BareSWTPM(t)
	cfg := config(t, s)
	create(t, cfg).Close()
	path := filepath.Join(cfg.State, "root.json")
	data, err := os.ReadFile(path)
	must(t, err)
	if auth, err := os.ReadFile(filepath.Join(cfg.State, "auth")); err != nil || strings.Contains(string(data), string(auth)) {
		t.Errorf("root.json has the auth value; %v", err)
	}
	foreign := config(t, s)
	create(t, foreign).Close()
	other, err := os.ReadFile(filepath.Join(foreign.State, "root.json"))
	must(t, err)

	for name, change := range map[string]func(s, other state){
		"another version":                     func(s, _ state) { s["version"] = 2 },
		"an unknown field":                    func(s, _ state) { s["more"] = 1 },
		"no storage root key":                 func(s, _ state) { delete(s, "storage") },
		"no root":                             func(s, _ state) { delete(s, "root") },
		"no agreement":                        func(s, _ state) { delete(s, "agreement") },
		"no endorsement key":                  func(s, _ state) { delete(s, "ek") },
		"no counter":                          func(s, _ state) { delete(s, "counter") },
		"the counter a key":                   func(s, _ state) { s["counter"] = s["ek"] },
		"the storage root key the root":       func(s, _ state) { s["storage"] = s.key("root")["public"] },
		"the root the attestation key":        func(s, _ state) { s.key("root")["public"] = s.key("ak")["public"] },
		"the attestation key the root":        func(s, _ state) { s["ak"] = s["root"] },
		"root and agreement exchanged":        func(s, _ state) { s["root"], s["agreement"] = s["agreement"], s["root"] },
		"another's root key":                  func(s, o state) { s["root"] = o["root"] },
		"another's agreement key":             func(s, o state) { s["agreement"] = o["agreement"] },
		"another's certificate":               func(s, o state) { s.key("root")["certificate"] = o.key("root")["certificate"] },
		"another's agreement certificate":     func(s, o state) { s.key("agreement")["certificate"] = o.key("agreement")["certificate"] },
		"another's private part":              func(s, o state) { s.key("root")["private"] = o.key("root")["private"] },
		"the private part of the agreement":   func(s, o state) { s.key("root")["private"] = s.key("agreement")["private"] },
		"no private part":                     func(s, _ state) { delete(s.key("agreement"), "private") },
		"PCRs that the keys are not bound to": func(s, _ state) { s["pcrs"] = []any{map[string]any{"index": 7, "value": ""}} },
	} {
		var changed, from state
		must(t, errors.Join(json.Unmarshal(data, &changed), json.Unmarshal(other, &from)))
		change(changed, from)
		out, err := json.Marshal(changed)
		must(t, err)
		must(t, os.WriteFile(path, out, 0o600))
		if _, err := tpm.Open(t.Context(), cfg); err == nil {
			t.Errorf("Open with %s succeeded", name)
		}
	}
	for name, content := range map[string]string{
		"empty": "", "cut": string(data[:len(data)/2]), "followed by something": string(data) + "{}",
		"huge": `{"version":` + strings.Repeat(" ", 1<<20) + "1}",
	} {
		must(t, os.WriteFile(path, []byte(content), 0o600))
		if _, err := tpm.Open(t.Context(), cfg); err == nil {
			t.Errorf("Open with a state that is %s succeeded", name)
		}
	}
	must(t, os.WriteFile(path, data, 0o600))
	must(t, open(t, cfg).Close())
}

// FuzzNewChallenge reads the keys that a stranger presents.
func FuzzNewChallenge(f *testing.F) {
	for _, s := range []*servers.TPM{servers.BareSWTPM(f), servers.SWTPM(f)} {
		root := create(f, config(f, s))
		a, err := root.Attest(f.Context(), nil)
		must(f, err)
		f.Add(a.EK, a.AK)
		f.Add(a.AK, a.EK)
	}
	f.Add([]byte{}, []byte{})
	f.Fuzz(func(t *testing.T, ek, ak []byte) {
		c, err := tpm.NewChallenge(&trust.Attestation{EK: ek, AK: ak}, make([]byte, 32))
		if (err == nil) == (c == nil) {
			t.Errorf("NewChallenge = %v, %v", c, err)
		}
	})
}
