package main

import (
	"os/exec"
	"strings"
	"testing"
)

// The demos, with the programs that "make build" made, fail by themselves if
// anything is not as they tell.
func TestDemos(t *testing.T) {
	for _, demo := range []string{"./test/demo", "./test/demo/function"} {
		t.Run(demo, func(t *testing.T) {
			t.Parallel()
			run := exec.CommandContext(t.Context(), "go", "run", demo)
			run.Dir = "../.."
			if out, err := run.CombinedOutput(); err != nil || !strings.Contains(string(out), "▸ Done.") {
				t.Errorf("%v; without programs in bin/: make build\n%s", err, out)
			}
		})
	}
}
