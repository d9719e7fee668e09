package clients_test

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/brevet-dev/brevet/test/servers"
)

func testShell(t *testing.T, b programs) {
	t.Run("scripts", testScripts)
	t.Run("example", func(t *testing.T) { shellExample(t, b) })
	t.Run("cancelled", func(t *testing.T) { shellCancelled(t, b) })
}

// testScripts checks what is for a plain POSIX shell.
func testScripts(t *testing.T) {
	before := filepath.Join(t.TempDir(), "before_script")
	write(t, before, installScript(t))
	scripts := []string{before}
	for _, pattern := range []string{"plugins/buildkite/brevet/hooks/*", "examples/*/*.sh", "examples/functions/lambda-shell/*"} {
		found, err := filepath.Glob(filepath.Join(root(t), pattern))
		if err != nil || len(found) == 0 {
			t.Fatalf("there is no %s: %v", pattern, err)
		}
		scripts = append(scripts, found...)
	}
	cmd := exec.Command("shellcheck", append([]string{"--shell=sh", "--norc"}, scripts...)...)
	if status, out := run(t, cmd); status != 0 {
		t.Errorf("shellcheck ended with %d:\n%s", status, out)
	}
}

// shellJob prepares the example, with a token of d for it and the given
// deploy.sh. home is the job's folder for temporary files.
func shellJob(t *testing.T, d *dev, b programs, deploy string) (cmd *exec.Cmd, home string) {
	t.Helper()
	home, checkout := t.TempDir(), t.TempDir()
	write(t, filepath.Join(checkout, "deploy.sh"), deploy)
	cmd = exec.CommandContext(t.Context(), filepath.Join(root(t), "examples/shell/job.sh"))
	cmd.Dir = checkout
	cmd.Env = append(cleanEnv(t, home, filepath.Dir(b.brevet)), "BREVET_BROKER="+d.env["BREVET_BROKER"], "PLATFORM_ID_TOKEN="+d.gitlabToken(t, ""))
	return cmd, home
}

func wantEmpty(t *testing.T, dir string) {
	t.Helper()
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("the job left %v, %v", left, err)
	}
}

func shellExample(t *testing.T, b programs) {
	d := startDev(t, b)
	cmd, home := shellJob(t, d, b, read(t, "examples/shell/deploy.sh")+"cat; echo \"${PLATFORM_ID_TOKEN-no token}\"; exit 3\n")
	cmd.Stdin = strings.NewReader("from stdin\n")
	status, out := run(t, cmd)
	if status != 3 {
		t.Errorf("the job ended with %d:\n%s", status, out)
	}
	wantText(t, out, "pushing the image with ***", "deploying with ***", "from stdin", "no token")
	wantMasked(t, out)
	wantEmpty(t, home)
	d.wantLeased(t, true, "deploy", "registry")
}

// shellCancelled ends the job's shell, and nothing else, while the command runs.
func shellCancelled(t *testing.T, b programs) {
	d := startDev(t, b)
	started := filepath.Join(t.TempDir(), "started")
	cmd, home := shellJob(t, d, b, "#!/bin/sh\ntouch '"+started+"'; exec sleep 600\n")
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	servers.Eventually(t, "the command runs", func() error { _, err := os.Stat(started); return err })
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if cmd.Wait(); cmd.ProcessState.ExitCode() != 128+int(syscall.SIGTERM) {
		t.Errorf("the job ended with %v:\n%s", cmd.ProcessState, &out)
	}
	wantEmpty(t, home)
	d.wantLeased(t, true, "deploy", "registry")
}
