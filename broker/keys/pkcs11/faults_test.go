package pkcs11_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/brevet-dev/brevet/broker/keys/pkcs11"
	"github.com/brevet-dev/brevet/broker/keys/pkcs11/wire"
	"github.com/brevet-dev/brevet/test/servers"
)

// TestFaultyLibrary opens a good root through a library with one fault: an error
// that names it, and no crash, hang or acceptance.
func TestFaultyLibrary(t *testing.T) {
	good := made(t)
	for fault, want := range map[string]string{
		"list fails":          "C_GetFunctionList returned 0x2 (CKR_HOST_MEMORY)",
		"no list":             "gave no list",
		"version":             "version 9.",
		"initialize fails":    "C_Initialize returned 0x5 (CKR_GENERAL_ERROR)",
		"no C_Login":          "C_Login returned 0x54 (CKR_FUNCTION_NOT_SUPPORTED)",
		"slots huge":          "1099511627776 slots",
		"slots grow":          "C_GetSlotList gave",
		"no slots":            "is the HSM connected?",
		"token gone":          "is the HSM connected?",
		"token garbage":       "no token has the label",
		"final try":           "log in to the token",
		"locked flag":         "security officer",
		"login locked":        "security officer",
		"login expired":       "expired",
		"login without PIN":   "none yet",
		"login crash":         "ended before it answered login: exit status 2",
		"logged out":          "CKR_USER_NOT_LOGGED_IN",
		"no objects":          "0 private and 0 public keys",
		"objects huge":        "C_FindObjects gave 1099511627776",
		"objects without end": "4 private and 4 public",
		"long 0x102":          "C_GetAttributeValue gave 1099511627776 bytes",
		"unknown 0x100":       "not an elliptic curve key",
		"flip 0x100":          "not an elliptic curve key",
		"flip 0x103":          "not sensitive",
		"unknown 0x103":       "not sensitive",
		"flip 0x165":          "not sensitive",
		"flip 0x162":          "extractable",
		"flip 0x164":          "extractable",
		"unknown 0x164":       "extractable",
		"flip 0x163":          "not made in the token",
		"flip 0x108":          "other things",
		"flip 0x10c":          "other things",
		"unknown 0x102":       "another CKA_ID",
		"flip 0x180":          "not on P-256",
		"unknown 0x180":       "not on P-256",
		"short 0x181":         "not a point",
		"unknown 0x181":       "not a point",
		"flip 0x181":          "not a point",
		"sign wrong":          "wrong signature",
		"sign zero":           "wrong signature",
		"sign huge":           "signature of 1099511627776 bytes",
		"sign short":          "signature of 63 bytes",
		"sign fails":          "C_Sign returned 0x30 (CKR_DEVICE_ERROR)",
		"sign crash":          "ended before it answered sign",
		"derive fails":        "C_DeriveKey returned 0x70 (CKR_MECHANISM_INVALID)",
		"short 0x11":          "shared secret of 1 bytes",
		"unknown 0x11":        "does not give out the shared secret",
		"flip 0x11":           "not that of its certificate",
	} {
		t.Run(fault, func(t *testing.T) {
			c, logins := faulty(t, good, fault)
			r, err := pkcs11.Open(t.Context(), c)
			if err == nil || r != nil || !strings.Contains(err.Error(), want) || errors.Is(err, fs.ErrNotExist) {
				t.Errorf("Open = %v, want %q", err, want)
			}
			if n := count(t, logins); n > 2 {
				t.Errorf("%d logins", n)
			}
			noPIN(t, err)
		})
	}
	c, _ := faulty(t, good, "none")
	if err := signs(t, open(t, c)); err != nil {
		t.Errorf("without a fault: %v", err)
	}
}

func noPIN(t *testing.T, err error) {
	t.Helper()
	if text := fmt.Sprintf("%v %+v %#v", err, err, err); strings.Contains(text, pin) {
		t.Errorf("an error tells the PIN: %s", text)
	}
}

// TestHeals: what is over after a new login nobody notices.
func TestHeals(t *testing.T) {
	good := made(t)
	for _, fault := range []string{"sign fails once", "sign crash once"} {
		c, logins := faulty(t, good, fault)
		if err := signs(t, open(t, c)); err != nil {
			t.Errorf("%s: %v", fault, err)
		}
		if n := count(t, logins); n != 2 {
			t.Errorf("%s: %d logins, want 2", fault, n)
		}
	}
}

// TestWrongPIN: a service manager that starts brevetd again and again does not
// lock the token.
func TestWrongPIN(t *testing.T) {
	c, logins := faulty(t, made(t), "none")
	write(t, c.PINFile, "wrong-0815")
	for i, want := range []string{"CKR_PIN_INCORRECT", "it did before", "it did before"} {
		_, err := pkcs11.Open(t.Context(), c)
		if !errors.Is(err, pkcs11.ErrPIN) || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "wrong-0815") {
			t.Errorf("Open with a wrong PIN, %d = %v, want ErrPIN with %q", i, err, want)
		}
		if n := count(t, logins); n != 1 {
			t.Errorf("%d logins, want 1", n)
		}
	}
	marker := filepath.Join(c.State, "pin-refused")
	if err := os.Remove(marker); err != nil {
		t.Fatal(err)
	}
	if _, err := pkcs11.Open(t.Context(), c); !errors.Is(err, pkcs11.ErrPIN) || count(t, logins) != 2 {
		t.Errorf("Open after the marker was removed = %v, %d logins", err, count(t, logins))
	}
	write(t, c.PINFile, pin)
	open(t, c)
	if _, err := os.Stat(marker); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("after the right PIN the marker is there: %v", err)
	}
}

// TestPINChanged: a PIN that was right once, and is wrong after the helper was
// killed, is tried once, whoever asks and how often.
func TestPINChanged(t *testing.T) {
	c, logins := faulty(t, made(t), "none")
	r := open(t, c)
	write(t, c.PINFile, "wrong")
	kill(t, syscall.SIGKILL)
	for range 3 {
		if err := signs(t, r); !errors.Is(err, pkcs11.ErrPIN) {
			t.Errorf("Sign = %v, want ErrPIN", err)
		}
		if err := r.Check(t.Context()); !errors.Is(err, pkcs11.ErrPIN) {
			t.Errorf("Check = %v, want ErrPIN", err)
		}
	}
	if n := count(t, logins); n != 2 {
		t.Errorf("%d logins, want 2: the right one and one wrong one", n)
	}
}

// TestFinalTry: no PIN is tried when it is the last try, not even a right one.
func TestFinalTry(t *testing.T) {
	for _, fault := range []string{"final try", "locked flag"} {
		c, logins := faulty(t, made(t), fault)
		if _, err := pkcs11.Open(t.Context(), c); !errors.Is(err, pkcs11.ErrLocked) {
			t.Errorf("Open, %s = %v, want ErrLocked", fault, err)
		}
		if n := count(t, logins); n != 0 {
			t.Errorf("%s: %d logins, want 0", fault, n)
		}
	}
}

func kill(t *testing.T, signal syscall.Signal) {
	t.Helper()
	if err := syscall.Kill(helper(t), signal); err != nil {
		t.Fatal(err)
	}
}

func TestKilled(t *testing.T) {
	r := open(t, made(t))
	for range 3 {
		before := helper(t)
		kill(t, syscall.SIGKILL)
		if err := signs(t, r); err != nil {
			t.Errorf("after the helper was killed: %v", err)
		}
		if after := helper(t); after == before {
			t.Error("the helper was not killed")
		}
	}
	kill(t, syscall.SIGTERM) // for all of the group: it goes on
	kill(t, syscall.SIGINT)
	before := helper(t)
	if err := r.Check(t.Context()); err != nil || helper(t) != before {
		t.Errorf("after SIGTERM: %v", err)
	}
}

func TestHung(t *testing.T) {
	r := open(t, made(t).Answering(2*time.Second))
	kill(t, syscall.SIGSTOP)
	began := time.Now()
	if err := r.Check(t.Context()); !errors.Is(err, pkcs11.ErrTimeout) || !strings.Contains(err.Error(), "check took more than 2s") {
		t.Errorf("with a hung helper: %v, want ErrTimeout", err)
	}
	if took := time.Since(began); took > 10*time.Second {
		t.Errorf("it took %v", took)
	}
	if err := signs(t, r); err != nil {
		t.Errorf("after a hung helper: %v", err)
	}
}

// TestHungLibrary: the next user gets a new process, which hangs as well, and
// each an error in time.
func TestHungLibrary(t *testing.T) {
	c, _ := faulty(t, made(t), "sign hang")
	for range 2 {
		if _, err := pkcs11.Open(t.Context(), c.Answering(300*time.Millisecond)); !errors.Is(err, pkcs11.ErrTimeout) {
			t.Errorf("Open = %v, want ErrTimeout", err)
		}
	}
	if left := helpers(t); len(left) > 0 {
		t.Errorf("there are helpers: %v", left)
	}
}

// TestTokenTakenAway: the token goes while the broker runs, and another comes.
func TestTokenTakenAway(t *testing.T) {
	c := made(t)
	r := open(t, c)
	out, err := exec.Command("softhsm2-util", "--delete-token", "--token", c.Token).CombinedOutput()
	if err != nil {
		t.Fatalf("softhsm2-util: %v: %s", err, out)
	}
	kill(t, syscall.SIGKILL)
	if err := r.Check(t.Context()); !errors.Is(err, pkcs11.ErrToken) || !strings.Contains(err.Error(), "is the HSM connected?") {
		t.Errorf("without the token: %v, want ErrToken", err)
	}
	other := c
	other.State += "2"
	servers.Token(t, c.Token, pin)
	newRoot(t, other).Close()
	if err := r.Check(t.Context()); !errors.Is(err, pkcs11.ErrKeys) {
		t.Errorf("with another token: %v, want ErrKeys", err)
	}
}

// TestWhatTheLibrarySees: its environment has nothing of the broker's, and the
// PIN is nowhere where another process could read it; what it prints goes
// nowhere.
func TestWhatTheLibrarySees(t *testing.T) {
	t.Setenv("BREVET_CANARY", "canary-of-the-broker")
	c, _ := faulty(t, made(t), "noise")
	r := open(t, c)
	if err := signs(t, r); err != nil {
		t.Error(err)
	}
	proc := fmt.Sprintf("/proc/%d/", helper(t))
	args, err := os.ReadFile(proc + "cmdline")
	if err != nil || string(args) != c.Helper+"\x00" {
		t.Errorf("arguments %q, %v", args, err)
	}
	env, err := os.ReadFile(proc + "environ")
	if err != nil && !errors.Is(err, fs.ErrPermission) { // not dumpable: only root may
		t.Fatal(err)
	}
	if bytes.Contains(env, []byte("canary")) || bytes.Contains(env, []byte("PATH=")) || bytes.Contains(env, []byte("HOME=")) {
		t.Errorf("environment %q", env)
	}
	for fd, want := range map[string]string{"0": "/dev/null", "1": "/dev/null", "2": "/dev/null"} {
		if got, err := os.Readlink(proc + "fd/" + fd); got != want && !errors.Is(err, fs.ErrPermission) {
			t.Errorf("descriptor %s is %s, %v, want %s", fd, got, err, want)
		}
	}
	c, _ = faulty(t, c, "login crash with noise")
	_, err = pkcs11.Open(t.Context(), c)
	if !errors.Is(err, pkcs11.ErrEnded) {
		t.Errorf("Open = %v, want ErrEnded", err)
	}
	noPIN(t, err)
}

// TestEndsWithItsInput: a helper that nobody asks any more does not stay.
func TestEndsWithItsInput(t *testing.T) {
	cmd := exec.Command(program(t, "brevetd-pkcs11"))
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	in.Close()
	if err := cmd.Wait(); err != nil {
		t.Errorf("the helper ended with %v", err)
	}
}

// TestEndsWithItsParent: when the parent is killed the helper is, too, even one
// that hangs in the library, and even if others keep its pipes open.
func TestEndsWithItsParent(t *testing.T) {
	parent := exec.Command("/bin/sh", "-c", "exec 3<&0; "+program(t, "brevetd-pkcs11")+" <&3 & wait")
	in, err := parent.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	out, err := parent.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := parent.Start(); err != nil {
		t.Fatal(err)
	}
	if err := wire.WriteRequest(in, &wire.Request{Op: wire.Check}); err != nil {
		t.Fatal(err)
	}
	if _, err := wire.ReadResponse(out); err != nil { // so it lives, and has asked the kernel
		t.Fatal(err)
	}
	if err := parent.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	if rest, err := io.ReadAll(out); err != nil || len(rest) > 0 { // its end is the helper's
		t.Errorf("the helper wrote %q, %v", rest, err)
	}
	if err := parent.Wait(); err == nil {
		t.Error("the parent was not killed")
	}
}
