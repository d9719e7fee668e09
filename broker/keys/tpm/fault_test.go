package tpm_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/brevet-dev/brevet/broker/keys"
	"github.com/brevet-dev/brevet/broker/keys/tpm"
	"github.com/brevet-dev/brevet/test/servers"
)

func TestRestart(t *testing.T) {
	t.Parallel()
	s := servers.BareSWTPM(t)
	cfg := config(t, s)
	root := create(t, cfg)
	s.Restart() // the root is still connected, with its keys loaded
	must(t, sign(root))
	s.Reset() // needs TPM2_Startup
	must(t, sign(root))
	must(t, root.Close())
	s.Restart()
	must(t, sign(open(t, cfg)))
}

// TestKilledMidSign kills the TPM while signatures are made, and starts it
// again: what fails says why, and then it works again by itself.
func TestKilledMidSign(t *testing.T) {
	t.Parallel()
	s := servers.BareSWTPM(t)
	root := create(t, config(t, s))
	signing, stop := make(chan struct{}, 1), make(chan struct{})
	var group sync.WaitGroup
	failures := make(chan error, 1000)
	for range 4 {
		group.Go(func() {
			for {
				select {
				case <-stop:
					return
				case signing <- struct{}{}:
				default:
				}
				if err := sign(root); err != nil {
					select {
					case failures <- err:
					default:
					}
				}
			}
		})
	}
	<-signing
	<-signing
	s.Kill()
	err := <-failures
	s.Restart()
	close(stop)
	group.Wait()
	refused(t, "Sign while the TPM was away", err, tpm.ErrVanished, "device or socket")
	must(t, sign(root))
}

func TestVanished(t *testing.T) {
	t.Parallel()
	s := servers.BareSWTPM(t)
	cfg := config(t, s)
	root := create(t, cfg)
	s.Kill()
	refused(t, "Sign", sign(root), tpm.ErrVanished)
	refused(t, "Check", root.Check(t.Context()), tpm.ErrVanished)
	_, err := root.Increment(t.Context())
	refused(t, "Increment", err, tpm.ErrVanished)
	_, err = tpm.Open(t.Context(), cfg)
	refused(t, "Open", err, tpm.ErrVanished)
	if errors.Is(err, os.ErrNotExist) {
		t.Error("Open says that there is no root, when there is no TPM")
	}
	s.Restart()
	must(t, root.Check(t.Context()))
}

func TestHung(t *testing.T) {
	t.Parallel()
	s := servers.BareSWTPM(t)
	root := create(t, config(t, s))
	s.Stop()
	began, sent := time.Now(), root.Operations()
	first := make(chan error, 1)
	go func() { first <- sign(root) }()
	servers.Eventually(t, "a command was sent", func() error {
		if root.Operations() == sent {
			return errors.New("not yet")
		}
		return nil
	})

	// Others do not wait longer than they want to.
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := root.Check(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Check behind a hung command = %v, want DeadlineExceeded", err)
	}
	refused(t, "Sign", <-first, tpm.ErrHung, "stopped")
	if took := time.Since(began); took > 9*time.Second {
		t.Errorf("ErrHung took %v", took)
	}
	s.Cont()
	must(t, sign(root)) // on a new connection, so that the late answer is not taken for this one's
	must(t, root.Check(t.Context()))
}

// wrong has cfg use another auth value than the keys have.
func wrong(t *testing.T, cfg tpm.Config) tpm.Config {
	cfg.AuthFile = filepath.Join(t.TempDir(), "wrong")
	must(t, os.WriteFile(cfg.AuthFile, []byte("not the auth value\n"), 0o600))
	return cfg
}

func TestWrongAuth(t *testing.T) {
	t.Parallel()
	cfg := config(t, servers.BareSWTPM(t))
	create(t, cfg).Close()
	for range 3 { // as often as swtpm lets one guess
		_, err := tpm.Open(t.Context(), wrong(t, cfg))
		refused(t, "Open with a wrong auth value", err, tpm.ErrAuth)
	}
	_, err := tpm.Open(t.Context(), cfg)
	refused(t, "Open after three wrong auth values", err, tpm.ErrLockout, "every 1000 s", "tpm2_dictionarylockout --clear-lockout")
}

// TestWrongAuthIsRemembered: a service that is started again and again does not
// lock the TPM.
func TestWrongAuthIsRemembered(t *testing.T) {
	t.Parallel()
	s := servers.BareSWTPM(t)
	cfg := config(t, s)
	create(t, cfg).Close()
	bad := wrong(t, cfg)
	_, err := tpm.Open(t.Context(), bad)
	refused(t, "Open with a wrong auth value", err, tpm.ErrAuth)
	s.Stop() // nothing is asked of it
	for range 5 {
		_, err := tpm.Open(t.Context(), bad)
		refused(t, "Open again", err, tpm.ErrAuth, "has not changed since", "auth-refused")
	}
	s.Cont()
	root, err := tpm.Open(t.Context(), cfg)
	must(t, err)
	must(t, root.Close())
	_, err = tpm.Open(t.Context(), bad) // the one in between was right, so that this is a try
	refused(t, "Open with a wrong auth value again", err, tpm.ErrAuth)
}

// TestWrongAuthOnce: one wrong auth value is one try, however often it is used.
// A command altered on its way looks the same to the TPM.
func TestWrongAuthOnce(t *testing.T) {
	t.Parallel()
	p, cfg := between(t, config(t, servers.BareSWTPM(t)))
	root := create(t, cfg)
	p.set(func() {
		p.before = func(_ int, command []byte) verdict {
			if codeOf(command) == ccSign {
				command[len(command)-20] ^= 1 // in the digest
			}
			return pass
		}
	})
	refused(t, "Sign", sign(root), tpm.ErrAuth)
	sent := root.Operations()
	for range 5 {
		refused(t, "Sign again", sign(root), tpm.ErrAuth, "not tried again")
		_, err := root.Count(t.Context())
		refused(t, "Count", err, tpm.ErrAuth)
	}
	if root.Operations() != sent {
		t.Error("after a wrong auth value commands were sent")
	}
}

func TestPCRs(t *testing.T) {
	t.Parallel()
	s := servers.BareSWTPM(t)
	cfg := config(t, s)
	cfg.PCRs = []int{23, 16}
	root := create(t, cfg)
	must(t, root.Check(t.Context()))
	other := cfg
	other.PCRs = nil
	if _, err := tpm.Open(t.Context(), other); err == nil || !strings.Contains(err.Error(), "other PCRs") {
		t.Errorf("Open with other PCRs configured = %v", err)
	}
	s.Restart()
	must(t, root.Check(t.Context()))

	tool(t, s, "tpm2_pcrextend", "16:sha256="+strings.Repeat("ab", 32))
	refused(t, "Sign after a PCR was extended", sign(root), tpm.ErrPCR, "differ now: 16 ")
	attest(t, root, nil) // what the keys are can still be proved
	must(t, root.Close())
	_, err := tpm.Open(t.Context(), cfg)
	refused(t, "Open after a PCR was extended", err, tpm.ErrPCR, "differ now: 16 ")
	tool(t, s, "tpm2_pcrreset", "16")
	root = open(t, cfg)
	must(t, root.Close())
	for _, pcrs := range [][]int{{24}, {-1}, {3, 3}} {
		cfg := config(t, s)
		cfg.PCRs = pcrs
		if _, err := tpm.Create(t.Context(), cfg, time.Now()); err == nil {
			t.Errorf("Create with PCRs %v succeeded", pcrs)
		}
	}
}

// tool runs one of tpm2-tools, which the TPM has to be free for.
func tool(t *testing.T, s *servers.TPM, name string, args ...string) string {
	t.Helper()
	cmd := exec.Command(name, append([]string{"--tcti", s.TCTI()}, args...)...)
	cmd.Dir = t.TempDir()
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v: %s", name, err, out)
	}
	return string(out)
}

func TestOtherTPM(t *testing.T) {
	t.Parallel()
	cfg := config(t, servers.BareSWTPM(t))
	create(t, cfg).Close()
	copied := cfg
	copied.State = filepath.Join(t.TempDir(), "copy")
	must(t, os.CopyFS(copied.State, os.DirFS(cfg.State)))
	must(t, os.Chmod(copied.State, 0o700))
	must(t, os.Chmod(filepath.Join(copied.State, "root.json"), 0o600))
	must(t, os.Chmod(filepath.Join(copied.State, "auth"), 0o600))
	must(t, open(t, copied).Close())
	copied.Device = servers.BareSWTPM(t).Device()
	_, err := tpm.Open(t.Context(), copied)
	refused(t, "Open at another TPM", err, tpm.ErrOtherTPM, "make a new root")
}

func TestCleared(t *testing.T) {
	t.Parallel()
	s := servers.BareSWTPM(t)
	cfg := config(t, s)
	create(t, cfg).Close()
	tool(t, s, "tpm2_clear")
	_, err := tpm.Open(t.Context(), cfg)
	refused(t, "Open after the TPM was cleared", err, tpm.ErrOtherTPM, "cleared")
}

func TestHierarchyPassword(t *testing.T) {
	t.Parallel()
	s := servers.BareSWTPM(t)
	cfg := config(t, s)
	tool(t, s, "tpm2_changeauth", "-c", "owner", "password")
	_, err := tpm.Create(t.Context(), cfg, time.Now())
	refused(t, "Create under an owner's password", err, tpm.ErrHierarchy, "tpm2_changeauth")
	nothing(t, cfg)
}

// nothing checks that Create left nothing.
func nothing(t *testing.T, cfg tpm.Config) {
	t.Helper()
	if left, err := os.ReadDir(filepath.Dir(cfg.State)); err != nil || len(left) > 0 {
		t.Errorf("left by Create: %v, %v", left, err)
	}
}

// TestExhausted fills the TPM with another program's keys and sessions, which
// is killed.
func TestExhausted(t *testing.T) {
	t.Parallel()
	s := servers.BareSWTPM(t)
	cfg := config(t, s)
	root := create(t, cfg)
	must(t, root.Close())
	for range 3 {
		send(t, s, createPrimary)
		send(t, s, startSession)
	}
	root = open(t, cfg)
	must(t, root.Check(t.Context()))
}

// TestBusy: a TPM that asks to be asked again, is.
func TestBusy(t *testing.T) {
	t.Parallel()
	p, cfg := between(t, config(t, servers.BareSWTPM(t)))
	root := create(t, cfg)
	times := 0
	p.set(func() {
		p.before = func(_ int, command []byte) verdict {
			if codeOf(command) == ccSign && times < 3 {
				times++
				return busy
			}
			return pass
		}
	})
	must(t, sign(root))
	if times != 3 {
		t.Errorf("asked again %d times, want 3", times)
	}
}

func TestTCP(t *testing.T) {
	t.Parallel()
	cfg := config(t, servers.BareSWTPM(t))
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	_, to, _ := strings.Cut(cfg.Device, ":")
	relaying(t, l, to)
	cfg.Device = "tcp:" + l.Addr().String()
	must(t, create(t, cfg).Close())
	must(t, open(t, cfg).Close())
}

func TestConcurrent(t *testing.T) {
	t.Parallel()
	root := create(t, config(t, servers.BareSWTPM(t)))
	errs := make(chan error, 32)
	for range cap(errs) {
		go func() { errs <- errors.Join(sign(root), root.Check(context.Background())) }()
	}
	for range cap(errs) {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
}

// TestTwoRoots: a daemon and its command line share a TPM that serves one
// connection at a time.
func TestTwoRoots(t *testing.T) {
	t.Parallel()
	cfg := config(t, servers.BareSWTPM(t))
	roots := []*tpm.Root{create(t, cfg), open(t, cfg)}
	var group sync.WaitGroup
	until := time.Now().Add(2500 * time.Millisecond) // longer than one may hold the TPM
	for i, root := range roots {
		group.Go(func() {
			for n := 0; time.Now().Before(until); n++ {
				if err := sign(root); err != nil {
					t.Errorf("root %d, signature %d: %v", i, n, err)
					return
				}
			}
		})
	}
	group.Wait()
	one, err := roots[0].Increment(t.Context())
	must(t, err)
	if two, err := roots[1].Increment(t.Context()); err != nil || two != one+1 {
		t.Errorf("they count to %d and %d, %v", one, two, err)
	}
}

func TestPermissions(t *testing.T) {
	t.Parallel()
	cfg := config(t, servers.BareSWTPM(t))
	create(t, cfg).Close()
	for path, mode := range map[string]os.FileMode{"": 0o700, "root.json": 0o600, "auth": 0o600} {
		path = filepath.Join(cfg.State, path)
		must(t, os.Chmod(path, mode|0o040))
		_, err := tpm.Open(t.Context(), cfg)
		refused(t, "Open with an open "+path, err, keys.ErrPermissions, fmt.Sprintf("chmod %o %s", mode, path))
		must(t, os.Chmod(path, mode))
	}
	must(t, os.Remove(filepath.Join(cfg.State, "auth")))
	if _, err := tpm.Open(t.Context(), cfg); err == nil || errors.Is(err, os.ErrNotExist) {
		t.Errorf("Open without the auth value = %v, want an error that is not ErrNotExist", err)
	}
}

func TestAuthFile(t *testing.T) {
	t.Parallel()
	cfg := config(t, servers.BareSWTPM(t))
	cfg.AuthFile = filepath.Join(t.TempDir(), "auth")
	for content, good := range map[string]bool{
		"": false, "short\n": false, "0123456789abcde\n": false, "0123456789abcdef\x00": false, strings.Repeat("x", 33): false,
		strings.Repeat("x", 32) + "\n": true,
	} {
		must(t, os.WriteFile(cfg.AuthFile, []byte(content), 0o600))
		root, err := tpm.Create(t.Context(), cfg, time.Now())
		if (err == nil) != good {
			t.Errorf("Create with auth value %q: %v", content, err)
		}
		if err != nil {
			nothing(t, cfg)
			continue
		}
		must(t, root.Close())
		if _, err := os.Stat(filepath.Join(cfg.State, "auth")); err == nil {
			t.Error("the auth value is in the state folder, too")
		}
		must(t, os.RemoveAll(cfg.State))
	}
}

func TestConfig(t *testing.T) {
	t.Parallel()
	state := filepath.Join(t.TempDir(), "tpm")
	for _, cfg := range []tpm.Config{
		{}, {Device: "/dev/null"}, {State: state}, {Device: "tpm0", State: state},
		{Device: "udp:localhost:1", State: state}, {Device: "/dev/null", State: state}, {Device: state, State: state},
	} {
		if _, err := tpm.Create(t.Context(), cfg, time.Now()); err == nil {
			t.Errorf("Create with %+v succeeded", cfg)
		}
	}
}
