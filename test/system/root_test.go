package system

import (
	"crypto/rand"
	"fmt"
	"testing"

	"github.com/brevet-dev/brevet/test/servers"
)

// A place is where a broker's root is.
type place struct {
	config string            // four lines of brevetd.yaml
	files  map[string]string // secrets that open it, by name
	tpm    *servers.TPM      // nil if it is none
}

func software(*testing.T) place {
	return place{config: "root:\n  software:\n    file: root.pem\n    # for development\n"}
}

// inTPM is in a TPM of its own.
func inTPM(t *testing.T) place {
	t.Helper()
	return placeIn(servers.BareSWTPM(t))
}

// inCertifiedTPM is in one with a certificate of its maker.
func inCertifiedTPM(t *testing.T) place {
	t.Helper()
	return placeIn(servers.SWTPM(t))
}

func placeIn(chip *servers.TPM) place {
	return place{config: fmt.Sprintf("root:\n  tpm:\n    device: %q\n    state: root\n", chip.Device()), tpm: chip}
}

// inHSM is in an HSM; a test that uses it cannot be parallel.
func inHSM(t *testing.T) place {
	t.Helper()
	module, pin := servers.SoftHSM(t), rand.Text()[:16]
	servers.Token(t, "brevet", pin)
	config := fmt.Sprintf("root:\n  pkcs11: {module: %q, token: brevet,\n    pin_file: pin,\n    state: root}\n", module)
	return place{config: config, files: map[string]string{"pin": pin}}
}

// onEachRoot runs test against a broker with each kind of root. All that
// differs is four lines of its configuration.
func onEachRoot(t *testing.T, test func(*testing.T, *fixture)) {
	t.Helper()
	t.Run("pkcs11", func(t *testing.T) { test(t, start(t, options{root: inHSM})) })
	t.Run("software", func(t *testing.T) {
		t.Parallel()
		test(t, start(t, options{root: software}))
	})
	t.Run("tpm", func(t *testing.T) {
		t.Parallel()
		test(t, start(t, options{root: inTPM}))
	})
}
