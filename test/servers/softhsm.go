package servers

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// SoftHSM lets this test, and the programs it starts, have an HSM in software
// with no tokens yet, and returns the path of its library. It sets an
// environment variable, so the test cannot be parallel.
func SoftHSM(t testing.TB) (module string) {
	t.Helper()
	dir := t.TempDir()
	tokens, conf := filepath.Join(dir, "tokens"), filepath.Join(dir, "softhsm2.conf")
	if err := os.Mkdir(tokens, 0o700); err != nil {
		t.Fatal(err)
	}
	text := fmt.Sprintf("directories.tokendir = %s\nobjectstore.backend = file\nlog.level = ERROR\n", tokens)
	if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("SOFTHSM2_CONF", conf)
	for _, pattern := range []string{"/usr/lib/softhsm", "/usr/lib/*/softhsm", "/usr/lib64/pkcs11", "/usr/local/lib/softhsm"} {
		found, err := filepath.Glob(filepath.Join(pattern, "libsofthsm2.so"))
		if err == nil && len(found) > 0 {
			return found[0]
		}
	}
	t.Fatal("there is no libsofthsm2.so; run: make tools")
	return ""
}

// Token makes a token in the HSM of [SoftHSM]. Its security officer's PIN is
// "so-pin".
func Token(t testing.TB, label, pin string) {
	t.Helper()
	out, err := exec.Command("softhsm2-util", "--init-token", "--free", "--label", label, "--so-pin", "so-pin", "--pin", pin).CombinedOutput()
	if err != nil {
		t.Fatalf("softhsm2-util: %v: %s; run: make tools", err, out)
	}
}
