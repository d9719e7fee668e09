package issuers_test

import (
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"github.com/brevet-dev/brevet/issuers"
	"github.com/brevet-dev/brevet/issuers/lab"
)

// writeKeys writes a JWK Set and returns its path.
func writeKeys(t testing.TB, document []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "keys.json")
	replaceKeys(t, path, document)
	return path
}

// replaceKeys puts another file in the place of path, at once.
func replaceKeys(t testing.TB, path string, document []byte) {
	t.Helper()
	if err := os.WriteFile(path+".new", document, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
}

// fileConfig configures p with a file in the place of its server.
func fileConfig(t testing.TB, p *platform) issuers.Config {
	config := p.config("github")
	config.JWKSFile = writeKeys(t, []byte(jwksOf(t, p)))
	return config
}

func TestKeyFile(t *testing.T) {
	p := start(t, lab.Options{})
	synctest.Test(t, func(t *testing.T) {
		config := fileConfig(t, p)
		set := newSet(t, config)
		running(t, set)
		old := p.mint(t, nil)
		check(t, set, old, "")
		if err := p.Rotate(); err != nil {
			t.Fatal(err)
		}
		p.Withdraw()
		check(t, set, p.mint(t, nil), issuers.ReasonUnknownKey)
		replaceKeys(t, config.JWKSFile, []byte(jwksOf(t, p)))
		time.Sleep(5 * time.Second)
		check(t, set, p.mint(t, nil), "")
		check(t, set, old, issuers.ReasonUnknownKey)
		if status := set.Status()[0]; status.Version != 2 || status.Keys != 1 || status.Err != nil {
			t.Errorf("Status = %+v, want the second version", status)
		}
	})
	if p.hits.Load() != 0 {
		t.Error("the issuer was asked for its keys")
	}
}

// What is broken or gone leaves the old keys in force for stale_keys.
func TestBrokenKeyFile(t *testing.T) {
	p := start(t, lab.Options{})
	for name, breakIt := range map[string]func(path string) error{
		"gone":     os.Remove,
		"cut":      func(path string) error { return os.Truncate(path, 40) },
		"too long": func(path string) error { return os.Truncate(path, 1<<20) },
		"no keys":  func(path string) error { return os.WriteFile(path, []byte(`{"keys":[]}`), 0o600) },
	} {
		synctest.Test(t, func(t *testing.T) {
			config := fileConfig(t, p)
			config.StaleKeys = new(10 * time.Minute)
			set := newSet(t, config)
			log := running(t, set)
			if err := breakIt(config.JWKSFile); err != nil {
				t.Fatal(err)
			}
			time.Sleep(10 * time.Minute)
			check(t, set, p.mint(t, nil), "")
			time.Sleep(10 * time.Second)
			check(t, set, p.mint(t, nil), "unavailable")
			replaceKeys(t, config.JWKSFile, []byte(jwksOf(t, p)))
			time.Sleep(10 * time.Second)
			check(t, set, p.mint(t, nil), "")
			synctest.Wait()
			expectLog(t, log, "level=WARN", "level=ERROR", "level=INFO")
			if t.Failed() {
				t.Log("the file was", name)
			}
		})
	}
}
