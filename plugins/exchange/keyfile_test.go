package exchange_test

import (
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/brevet-dev/brevet/broker/api"
	"github.com/brevet-dev/brevet/plugins/exchange"
)

// public returns the header of a proof, which has the public key.
func public(t *testing.T, key *exchange.Key) string {
	t.Helper()
	proof, err := key.Proof("GET", brokerURL, api.Secret{}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	header, _, _ := strings.Cut(proof, ".")
	return header
}

// TestKeyFileAtOnce has many processes find no key at the same time: all must end
// up with the same one, and nothing else may be left.
func TestKeyFileAtOnce(t *testing.T) {
	path := filepath.Join(t.TempDir(), "key")
	keys := make([]*exchange.Key, 20)
	errs := make([]error, len(keys))
	var calls sync.WaitGroup
	for i := range keys {
		calls.Go(func() { keys[i], errs[i] = exchange.KeyFile(path) })
	}
	calls.Wait()
	for i, err := range errs {
		if err != nil {
			t.Fatal(err)
		}
		if public(t, keys[i]) != public(t, keys[0]) {
			t.Fatal("two processes have different keys")
		}
	}
	files, err := os.ReadDir(filepath.Dir(path))
	if err != nil || len(files) != 1 {
		t.Errorf("%d files in the folder, %v; want 1", len(files), err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the key: %v, %v; want mode 0600", info, err)
	}
}

func TestKeyFileRefuses(t *testing.T) {
	for want, spoil := range map[string]func(path string) error{
		"open to other users":     func(path string) error { return os.Chmod(path, 0o640) },
		"reading a kept key":      func(path string) error { return link(path) },
		"not a key of brevet's":   func(path string) error { return os.WriteFile(path, []byte("short"), 0o600) },
		"reading a kept key: EOF": func(path string) error { return os.Truncate(path, 0) },
	} {
		path := filepath.Join(t.TempDir(), "key")
		if _, err := exchange.KeyFile(path); err != nil {
			t.Fatal(err)
		}
		if err := spoil(path); err != nil {
			t.Fatal(err)
		}
		if key, err := exchange.KeyFile(path); key != nil || err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("KeyFile = %v, %v; want %s", key, err, want)
		}
	}
	if _, err := exchange.KeyFile(filepath.Join(t.TempDir(), "nowhere", "key")); err == nil || !strings.Contains(err.Error(), "keeping a key") {
		t.Errorf("KeyFile without a folder = %v", err)
	}
}

// link puts a link in the place of path.
func link(path string) error {
	if err := os.Rename(path, path+"-real"); err != nil {
		return err
	}
	return os.Symlink(path+"-real", path)
}
