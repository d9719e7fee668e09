package pkcs11_test

import (
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/brevet-dev/brevet/broker/keys"
	"github.com/brevet-dev/brevet/broker/keys/pkcs11"
	"github.com/brevet-dev/brevet/test/servers"
)

var _ keys.Root = (*pkcs11.Root)(nil)

const pin = "canary-7391"

// programs are what the tests build: the helper and the faulty library.
var programs = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "brevet-pkcs11-")
	if err != nil {
		return "", err
	}
	build := exec.Command("go", "build", "-o", dir, "../../../cmd/brevetd-pkcs11")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return dir, fmt.Errorf("go build: %w: %s", err, out)
	}
	out, err := exec.Command("gcc", "-shared", "-fPIC", "-o", filepath.Join(dir, "faulty.so"), "testdata/module.c", "-ldl").CombinedOutput()
	if err != nil {
		return dir, fmt.Errorf("gcc: %w: %s; run: make tools", err, out)
	}
	return dir, nil
})

func TestMain(m *testing.M) {
	dir, err := programs()
	code := 1
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
	} else {
		code = m.Run()
	}
	os.RemoveAll(dir)
	os.Exit(code)
}

func program(t testing.TB, name string) string {
	t.Helper()
	dir, err := programs()
	if err != nil {
		t.Fatal(err)
	}
	return filepath.Join(dir, name)
}

// newConfig is that of a root that may be made, in a token "brevet" of an HSM
// of its own.
func newConfig(t testing.TB) pkcs11.Config {
	t.Helper()
	c := pkcs11.Config{
		Module: servers.SoftHSM(t), Token: "brevet", Helper: program(t, "brevetd-pkcs11"),
		PINFile: filepath.Join(t.TempDir(), "pin"), State: filepath.Join(t.TempDir(), "state"),
	}
	servers.Token(t, c.Token, pin)
	write(t, c.PINFile, pin+"\n")
	return c
}

func write(t testing.TB, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// newRoot makes a root that is closed with the test.
func newRoot(t testing.TB, c pkcs11.Config) *pkcs11.Root {
	t.Helper()
	return closing(t)(pkcs11.Create(t.Context(), c, time.Now()))
}

func open(t testing.TB, c pkcs11.Config) *pkcs11.Root {
	t.Helper()
	return closing(t)(pkcs11.Open(t.Context(), c))
}

func closing(t testing.TB) func(*pkcs11.Root, error) *pkcs11.Root {
	t.Helper()
	return func(r *pkcs11.Root, err error) *pkcs11.Root {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { r.Close() })
		return r
	}
}

// made makes a root and closes it again.
func made(t testing.TB) pkcs11.Config {
	t.Helper()
	c := newConfig(t)
	newRoot(t, c).Close()
	return c
}

// faulty lets c use the library with a fault, and returns the file that counts
// its logins.
func faulty(t *testing.T, c pkcs11.Config, fault string) (pkcs11.Config, string) {
	t.Helper()
	logins := filepath.Join(t.TempDir(), "logins")
	if c.Module != program(t, "faulty.so") {
		t.Setenv("FAKE_REAL", c.Module)
	}
	t.Setenv("FAKE", fault)
	t.Setenv("FAKE_ONCE", filepath.Join(t.TempDir(), "once"))
	t.Setenv("FAKE_LOGINS", logins)
	c.Module, c.Env = program(t, "faulty.so"), []string{"FAKE", "FAKE_REAL", "FAKE_ONCE", "FAKE_LOGINS"}
	return c, logins
}

func count(t *testing.T, logins string) int {
	t.Helper()
	data, err := os.ReadFile(logins)
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	return len(data)
}

// signs has r sign and agree, and checks both in software.
func signs(t testing.TB, r *pkcs11.Root) error {
	t.Helper()
	digest := sha256.Sum256([]byte("something"))
	signature, err := r.Signer().Sign(rand.Reader, digest[:], hash)
	if err != nil {
		return err
	}
	if !ecdsa.VerifyASN1(r.Certificate().PublicKey.(*ecdsa.PublicKey), digest[:], signature) {
		t.Error("a signature does not verify")
	}
	own, err := ecdh.P256().GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	got, err := r.KeyExchanger().ECDH(own.PublicKey())
	if err != nil {
		return err
	}
	want, err := own.ECDH(r.KeyExchanger().PublicKey())
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != string(want) {
		t.Error("a shared secret is not that of software")
	}
	return nil
}

// helpers returns the process ids of the helpers of this process that live.
func helpers(t *testing.T) []int {
	t.Helper()
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		t.Fatal(err)
	}
	var pids []int
	for _, path := range stats {
		data, err := os.ReadFile(path)
		if err != nil {
			continue // it ended
		}
		// proc_pid_stat(5): pid (comm) state ppid …
		before, after, _ := strings.Cut(string(data), " (brevetd-pkcs11) ")
		fields := strings.Fields(after)
		if len(fields) < 2 || fields[0] == "Z" || fields[1] != strconv.Itoa(os.Getpid()) {
			continue
		}
		pid, err := strconv.Atoi(before)
		if err != nil {
			t.Fatal(err)
		}
		pids = append(pids, pid)
	}
	return pids
}

// helper returns the one helper of this process.
func helper(t *testing.T) int {
	t.Helper()
	pids := helpers(t)
	if len(pids) != 1 {
		t.Fatalf("%d helpers run, want 1", len(pids))
	}
	return pids[0]
}
