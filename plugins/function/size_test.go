package function_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// mostAdded is what this package may add to a function, in bytes: what is loaded
// at each cold start.
const mostAdded = 1500 << 10

// TestSize builds a function twice, as functions are deployed: with a credential
// of the broker, and without.
func TestSize(t *testing.T) {
	bare, with := size(t, "bare"), size(t, "with")
	t.Logf("%d KiB without, %d KiB with: %d KiB more", bare>>10, with>>10, (with-bare)>>10)
	if with-bare > mostAdded {
		t.Errorf("a function grows by %d KiB, from %d KiB; the most is %d KiB", (with-bare)>>10, bare>>10, mostAdded>>10)
	}
}

func size(t *testing.T, program string) int64 {
	t.Helper()
	file := filepath.Join(t.TempDir(), program)
	cmd := exec.Command("go", "build", "-buildvcs=false", "-trimpath", "-ldflags", "-s -w", "-o", file, "./testdata/size/"+program)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	info, err := os.Stat(file)
	if err != nil {
		t.Fatal(err)
	}
	return info.Size()
}
