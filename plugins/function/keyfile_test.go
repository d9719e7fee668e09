package function_test

import (
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/brevet-dev/brevet/plugins/function"
)

// pod returns what lives through a process in a pod: all have the same token, which
// no kubelet replaces, and a whole broker.
func pod(t *testing.T) func(change func(*function.Options)) error {
	t.Helper()
	var p place
	for _, p = range places() {
		if p.name == "kubernetes" {
			break
		}
	}
	w := newWorld(t, p)
	path := writeToken(t, w.mint(p))
	return func(change func(*function.Options)) error {
		o := function.Options{}.On(env("KUBERNETES_SERVICE_HOST", "10.0.0.1"), nil, "", path)
		change(&o)
		s, err := o.New(t.Context(), w.broker.URL, "database")
		if err == nil {
			err = s.Close(t.Context())
		}
		return err
	}
}

// TestRestart starts a container again under the same token: with a key file it
// works, without it is refused and told what to do, and so is who has stolen the
// token and not the key.
func TestRestart(t *testing.T) {
	run := pod(t)
	key := filepath.Join(t.TempDir(), "key")
	kept := func(o *function.Options) { o.KeyFile = key }
	for range 2 {
		if err := run(kept); err != nil {
			t.Fatal(err)
		}
	}
	err := run(func(*function.Options) {})
	if err == nil || !strings.Contains(err.Error(), "subject token already used") || !strings.Contains(err.Error(), "BREVET_KEY_FILE") {
		t.Errorf("with another key New = %v", err)
	}
	err = run(func(o *function.Options) { o.KeyFile = filepath.Join(t.TempDir(), "key") })
	if err == nil || !strings.Contains(err.Error(), "subject token already used") {
		t.Errorf("as another pod New = %v", err)
	}
	if err := run(kept); err != nil {
		t.Errorf("after that New = %v", err)
	}
}

// TestContainersAtOnce start with one token and one key file, which is not there yet.
func TestContainersAtOnce(t *testing.T) {
	run := pod(t)
	key := filepath.Join(t.TempDir(), "key")
	errs := make([]error, 8)
	var running sync.WaitGroup
	for i := range errs {
		running.Go(func() { errs[i] = run(func(o *function.Options) { o.KeyFile = key }) })
	}
	running.Wait()
	for _, err := range errs {
		if err != nil {
			t.Error(err)
		}
	}
}

// TestKeyFileRefused: a key that cannot be kept is an error of New.
func TestKeyFileRefused(t *testing.T) {
	o := function.Options{}.On(env("BREVET_TOKEN_FILE", writeToken(t, dummy), "BREVET_KEY_FILE", "/nowhere/key"), nil, "", "")
	if err := tryNew(t, o); err == nil || !strings.Contains(err.Error(), "BREVET_KEY_FILE must be in a folder") {
		t.Errorf("New = %v", err)
	}
}
