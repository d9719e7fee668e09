package servers

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
)

// A TPM is a TPM 2.0 in software, swtpm, with a seed of its own.
type TPM struct {
	// CA is the certificate (PEM) that its endorsement certificates lead to, and
	// Intermediate the one that signed them. Both are "" if it has none.
	CA, Intermediate string

	t   testing.TB
	dir string
	cmd *exec.Cmd
}

// SWTPM starts a TPM as it leaves its maker: with an RSA-2048 endorsement key
// and its certificate. That takes half a second more than [BareSWTPM].
func SWTPM(t testing.TB) *TPM {
	t.Helper()
	s := newTPM(t)
	ca := filepath.Join(s.dir, "ca")
	s.CA, s.Intermediate = filepath.Join(ca, "swtpm-localca-rootca-cert.pem"), filepath.Join(ca, "issuercert.pem")
	setup := exec.Command("swtpm_setup", "--tpm2", "--tpm-state", "dir://"+s.state(), "--create-ek-cert",
		"--config", s.configure(ca), "--logfile", filepath.Join(s.dir, "setup.log"))
	if out, err := setup.CombinedOutput(); err != nil {
		t.Fatalf("swtpm_setup: %v: %s; run: make tools", err, out)
	}
	s.start()
	return s
}

// BareSWTPM starts a TPM whose maker did not certify its endorsement key.
func BareSWTPM(t testing.TB) *TPM {
	t.Helper()
	s := newTPM(t)
	s.start()
	return s
}

func newTPM(t testing.TB) *TPM {
	t.Helper()
	dir, err := os.MkdirTemp("", "tpm") // not t.TempDir: a socket's path is short
	if err != nil {
		t.Fatal(err)
	}
	s := &TPM{t: t, dir: dir}
	t.Cleanup(func() {
		s.Kill()
		os.RemoveAll(dir)
	})
	if err := os.Mkdir(s.state(), 0o700); err != nil {
		t.Fatal(err)
	}
	return s
}

// configure writes what makes swtpm_setup keep its CA in a folder, and returns
// the file that says so.
func (s *TPM) configure(ca string) string {
	s.t.Helper()
	localCA, err := exec.LookPath("swtpm_localca")
	if err != nil {
		s.t.Fatalf("%v; run: make tools", err)
	}
	file := func(name, content string) string {
		path := filepath.Join(s.dir, name)
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			s.t.Fatal(err)
		}
		return path
	}
	options := file("options", "--platform-manufacturer brevet\n--platform-version 1\n--platform-model test\n")
	config := file("localca.conf", fmt.Sprintf(
		"statedir = %[1]s\nsigningkey = %[1]s/signkey.pem\nissuercert = %[1]s/issuercert.pem\ncertserial = %[1]s/certserial\n", ca))
	return file("setup.conf", fmt.Sprintf(
		"create_certs_tool = %s\ncreate_certs_tool_config = %s\ncreate_certs_tool_options = %s\nactive_pcr_banks = sha256\n", localCA, config, options))
}

func (s *TPM) state() string  { return filepath.Join(s.dir, "state") }
func (s *TPM) socket() string { return filepath.Join(s.dir, "tpm.sock") }
func (s *TPM) ctrl() string   { return s.socket() + ".ctrl" } // where tpm2-tools look for it

// Device is how broker/keys/tpm reaches it.
func (s *TPM) Device() string { return "unix:" + s.socket() }

// TCTI is how tpm2-tools reach it.
func (s *TPM) TCTI() string { return "swtpm:path=" + s.socket() }

func (s *TPM) start() {
	s.t.Helper()
	s.cmd = exec.Command("swtpm", "socket", "--tpm2", "--tpmstate", "dir="+s.state(),
		"--server", "type=unixio,path="+s.socket(), "--ctrl", "type=unixio,path="+s.ctrl(),
		"--flags", "not-need-init,startup-clear")
	if err := s.cmd.Start(); err != nil {
		s.t.Fatalf("starting swtpm: %v; run: make tools", err)
	}
	Eventually(s.t, "swtpm answers", func() error {
		c, err := net.Dial("unix", s.socket())
		if err != nil {
			return err
		}
		return c.Close()
	})
}

// Kill ends it as a power cut does. It is away until Restart.
func (s *TPM) Kill() {
	if s.cmd == nil {
		return
	}
	s.cmd.Process.Kill()
	s.cmd.Wait() // says that it was killed
	s.cmd = nil
	os.Remove(s.socket())
}

// Restart starts it again, with what it kept; after ending it, if need be.
func (s *TPM) Restart() {
	s.t.Helper()
	s.Kill()
	s.start()
}

// Stop makes it hang: it takes commands and does not answer.
func (s *TPM) Stop() { s.signal(syscall.SIGSTOP) }

// Cont ends what Stop began.
func (s *TPM) Cont() { s.signal(syscall.SIGCONT) }

func (s *TPM) signal(sig syscall.Signal) {
	s.t.Helper()
	if err := s.cmd.Process.Signal(sig); err != nil {
		s.t.Fatal(err)
	}
}

// Reset resets it as a machine does that is turned off and on, without the
// TPM2_Startup that a machine's firmware sends then.
func (s *TPM) Reset() {
	s.t.Helper()
	if out, err := exec.Command("swtpm_ioctl", "--unix", s.ctrl(), "-i").CombinedOutput(); err != nil {
		s.t.Fatalf("resetting swtpm: %v: %s", err, out)
	}
}
