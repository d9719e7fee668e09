package tpm_test

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/brevet-dev/brevet/broker/keys/tpm"
	"github.com/brevet-dev/brevet/test/servers"
)

// counters returns how many NV indexes a TPM without certificates has: each root
// has one.
func counters(t *testing.T, s *servers.TPM) int {
	t.Helper()
	return strings.Count(tool(t, s, "tpm2_getcap", "handles-nv-index"), "0x")
}

// TestCreateFails fails Create at each of its commands in turn.
func TestCreateFails(t *testing.T) {
	t.Parallel()
	for name, how := range map[string]verdict{"before": cut, "after": cutIt} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := servers.BareSWTPM(t)
			p, cfg := between(t, config(t, s))
			var err error
			n := 1
			for ; ; n++ {
				limit := p.count() + n
				p.set(func() {
					p.before = func(i int, _ []byte) verdict {
						if i < limit {
							return pass
						}
						return how
					}
				})
				var root *tpm.Root
				if root, err = tpm.Create(t.Context(), cfg, time.Now()); err == nil {
					root.Close()
					break
				}
				if _, err := os.Stat(cfg.State); !errors.Is(err, fs.ErrNotExist) {
					t.Fatalf("after command %d: there is a state folder: %v", n, err)
				}
			}
			if n < 20 {
				t.Errorf("Create took %d commands", n)
			}
			p.set(func() { p.before = func(int, []byte) verdict { return pass } })
			must(t, open(t, cfg).Close())
			if n := counters(t, s); n != 1 {
				t.Errorf("%d counters are left in the TPM, want the root's", n)
			}
		})
	}
}

// TestCreateStopped ends Create by its context.
func TestCreateStopped(t *testing.T) {
	t.Parallel()
	s := servers.BareSWTPM(t)
	p, cfg := between(t, config(t, s))
	ctx, cancel := context.WithCancel(t.Context())
	p.set(func() {
		p.before = func(_ int, command []byte) verdict {
			if codeOf(command) == ccNVIncrement {
				cancel()
			}
			return pass
		}
	})
	_, err := tpm.Create(ctx, cfg, time.Now())
	refused(t, "Create", err, context.Canceled)
	nothing(t, cfg)
	if n := counters(t, s); n != 0 {
		t.Errorf("%d counters are left in the TPM", n)
	}
}

// In the environment of TestKilled's process.
const (
	killedDevice = "BREVET_TEST_TPM_DEVICE"
	killedState  = "BREVET_TEST_TPM_STATE"
)

// TestKilled kills a process while it makes a root. It is that process, too.
func TestKilled(t *testing.T) {
	t.Parallel()
	if device := os.Getenv(killedDevice); device != "" {
		_, err := tpm.Create(t.Context(), tpm.Config{Device: device, State: os.Getenv(killedState)}, time.Now())
		t.Fatalf("it was not killed: %v", err)
	}
	for name, code := range map[string]uint32{"making keys": ccCreate, "making a counter": ccNVDefineSpace, "counting": ccNVIncrement, "trying keys": ccECDHZGen} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := servers.BareSWTPM(t)
			p, cfg := between(t, config(t, s))
			ctx, kill := context.WithCancel(t.Context())
			dead := make(chan struct{})
			cmd := exec.CommandContext(ctx, os.Args[0], "-test.run=^TestKilled$")
			cmd.Env = append(os.Environ(), killedDevice+"="+cfg.Device, killedState+"="+cfg.State)
			p.set(func() {
				p.before = func(_ int, command []byte) verdict {
					if codeOf(command) == code {
						kill()
						<-dead
						return cutIt
					}
					return pass
				}
			})
			out, err := cmd.CombinedOutput()
			close(dead)
			if err == nil || strings.Contains(string(out), "not killed") {
				t.Fatalf("it was not killed: %v: %s", err, out)
			}
			p.set(func() { p.before = func(int, []byte) verdict { return pass } })
			_, err = tpm.Open(t.Context(), cfg)
			refused(t, "Open after Create was killed", err, fs.ErrNotExist)
			must(t, create(t, cfg).Close())
			if n := counters(t, s); n != 1 {
				t.Errorf("%d counters are left in the TPM, want the root's", n)
			}
		})
	}
}

// TestCreateTwice: of two processes that make a root in one place, one does.
func TestCreateTwice(t *testing.T) {
	t.Parallel()
	s := servers.BareSWTPM(t)
	cfg := config(t, s)
	errs := make(chan error, 2)
	for range cap(errs) {
		go func() {
			root, err := tpm.Create(context.Background(), cfg, time.Now())
			if err == nil {
				err = root.Close()
			}
			errs <- err
		}()
	}
	if one, two := <-errs, <-errs; (one == nil) == (two == nil) {
		t.Errorf("Create twice at once = %v, %v, want one error", one, two)
	}
	must(t, open(t, cfg).Close())
	if n := counters(t, s); n != 1 {
		t.Errorf("%d counters are left in the TPM, want the root's", n)
	}
}

// An empty folder may be there already: a package or an operator made it.
func TestCreateInAnEmptyFolder(t *testing.T) {
	t.Parallel()
	cfg := config(t, servers.BareSWTPM(t))
	must(t, os.MkdirAll(cfg.State, 0o700))
	root := create(t, cfg)
	must(t, root.Check(t.Context()))
}
