package agent

import (
	"os/exec"
	"testing"
)

// TestClients runs the tests of the module in the folder clients.
func TestClients(t *testing.T) {
	cmd := exec.Command("go", "test", "-count=1", "./...")
	cmd.Dir = "clients"
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("go test: %v\n%s", err, out)
	}
}
