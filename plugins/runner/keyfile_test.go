package runner_test

import (
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/brevet-dev/brevet/broker/api"
	"github.com/brevet-dev/brevet/plugins/exchange"
	"github.com/brevet-dev/brevet/plugins/runner"
)

// jwk returns the public key of key, in the header of a proof.
func jwk(t *testing.T, key *exchange.Key) string {
	t.Helper()
	proof, err := key.Proof("GET", "https://broker.example.com", api.Secret{}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	for i := range proof {
		if proof[i] == '.' {
			return proof[:i]
		}
	}
	return ""
}

// TestKeptKeyAtOnce starts many calls of one job at the same time: all must end
// up with the same key.
func TestKeptKeyAtOnce(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "state")
	keys := make([]*exchange.Key, 20)
	errs := make([]error, len(keys))
	var calls sync.WaitGroup
	for i := range keys {
		calls.Go(func() { keys[i], errs[i] = runner.KeptKey(dir, api.NewSecret("a token")) })
	}
	calls.Wait()
	for i, err := range errs {
		if err != nil {
			t.Fatal(err)
		}
		if jwk(t, keys[i]) != jwk(t, keys[0]) {
			t.Fatal("two calls have different keys")
		}
	}
	other, err := runner.KeptKey(dir, api.NewSecret("another token"))
	if err != nil || jwk(t, other) == jwk(t, keys[0]) {
		t.Errorf("another token: %v, or the same key", err)
	}
	files, err := os.ReadDir(dir)
	if err != nil || len(files) != 2 {
		t.Errorf("%d files in the folder, %v; want 2", len(files), err)
	}
}

func TestKeptKeyRefuses(t *testing.T) {
	token := api.NewSecret("a token")
	for name, spoil := range map[string]func(dir, file string) error{
		"folder open to others": func(dir, _ string) error { return os.Chmod(dir, 0o750) },
		"file open to others":   func(_, file string) error { return os.Chmod(file, 0o640) },
		"file is a link": func(dir, file string) error {
			if err := os.Rename(file, filepath.Join(dir, "real")); err != nil {
				return err
			}
			return os.Symlink("real", file)
		},
		"folder is a link": func(dir, _ string) error {
			if err := os.Rename(dir, dir+"-real"); err != nil {
				return err
			}
			return os.Symlink(dir+"-real", dir)
		},
		"folder is a file": func(dir, _ string) error {
			if err := os.RemoveAll(dir); err != nil {
				return err
			}
			return os.WriteFile(dir, nil, 0o700)
		},
		"no key":   func(_, file string) error { return os.WriteFile(file, []byte("short"), 0o600) },
		"empty":    func(_, file string) error { return os.Truncate(file, 0) },
		"too long": func(_, file string) error { return os.WriteFile(file, make([]byte, 40), 0o600) },
		"zero":     func(_, file string) error { return os.WriteFile(file, make([]byte, 32), 0o600) },
	} {
		dir := filepath.Join(t.TempDir(), "state")
		if _, err := runner.KeptKey(dir, token); err != nil {
			t.Fatal(err)
		}
		files, err := filepath.Glob(filepath.Join(dir, "dpop-*"))
		if err != nil || len(files) != 1 {
			t.Fatal(files, err)
		}
		if err := spoil(dir, files[0]); err != nil {
			t.Fatal(err)
		}
		if key, err := runner.KeptKey(dir, token); err == nil || key != nil {
			t.Errorf("%s: KeptKey = %v, %v; want an error", name, key, err)
		}
	}
}

func TestKeptKeyOfAnotherUser(t *testing.T) {
	// The root folder of the file system is root's; to root itself it is too
	// open. Either way it is refused.
	if _, err := runner.KeptKey("/", api.NewSecret("a token")); err == nil {
		t.Error("KeptKey took a folder that is not the user's own")
	}
}
