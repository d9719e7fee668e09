package tpm_test

import (
	"os"
	"strings"
	"testing"

	"github.com/brevet-dev/brevet/broker/keys/tpm"
	"github.com/brevet-dev/brevet/test/servers"
)

func TestCounter(t *testing.T) {
	t.Parallel()
	s := servers.BareSWTPM(t)
	cfg := config(t, s)
	root := create(t, cfg)
	backup := cfg.State + ".backup"
	must(t, os.CopyFS(backup, os.DirFS(cfg.State)))
	n, err := root.Count(t.Context())
	must(t, err)
	for range 3 {
		next, err := root.Increment(t.Context())
		must(t, err)
		if next != n+1 {
			t.Errorf("Increment from %d = %d", n, next)
		}
		n = next
	}
	s.Restart()
	is := func(when string, root *tpm.Root) {
		t.Helper()
		if got, err := root.Count(t.Context()); err != nil || got != n {
			t.Errorf("Count %s = %d, %v, want %d", when, got, err, n)
		}
	}
	is("after a restart", root)
	must(t, root.Close())

	must(t, os.RemoveAll(cfg.State))
	must(t, os.Rename(backup, cfg.State))
	must(t, os.Chmod(cfg.State, 0o700))
	for _, name := range []string{"/root.json", "/auth"} {
		must(t, os.Chmod(cfg.State+name, 0o600))
	}
	restored := open(t, cfg)
	is("after the state folder was restored", restored)
	must(t, restored.Close())

	// Who makes it anew cannot turn it back.
	_, index, ok := strings.Cut(tool(t, s, "tpm2_getcap", "handles-nv-index"), "0x")
	if !ok {
		t.Fatal("the counter is not there")
	}
	tool(t, s, "tpm2_nvundefine", "0x"+strings.TrimSpace(index))
	root = open(t, cfg)
	_, err = root.Count(t.Context())
	refused(t, "Count of a counter that was removed", err, tpm.ErrCounter, "make a new root")
	_, err = root.Increment(t.Context())
	refused(t, "Increment of one", err, tpm.ErrCounter)
	must(t, root.Close())
	must(t, os.RemoveAll(cfg.State))
	root = create(t, cfg)
	if got, err := root.Count(t.Context()); err != nil || got <= n {
		t.Errorf("Count of a new counter = %d, %v, want more than %d", got, err, n)
	}
}

// TestCountUnsure loses the TPM while it counts: it is not told to count again.
func TestCountUnsure(t *testing.T) {
	t.Parallel()
	for name, how := range map[string]verdict{"before": cut, "after": cutIt} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p, cfg := between(t, config(t, servers.BareSWTPM(t)))
			root := create(t, cfg)
			n, err := root.Count(t.Context())
			must(t, err)
			times := 0
			p.set(func() {
				p.before = func(_ int, command []byte) verdict {
					if codeOf(command) == ccNVIncrement {
						times++
						return how
					}
					return pass
				}
			})
			_, err = root.Increment(t.Context())
			refused(t, "Increment", err, tpm.ErrUnsure, "read the count")
			if how == cutIt {
				n++
			}
			if got, err := root.Count(t.Context()); err != nil || got != n {
				t.Errorf("Count = %d, %v, want %d", got, err, n)
			}
			if times != 1 {
				t.Errorf("the TPM was told to count %d times", times)
			}
		})
	}
}
