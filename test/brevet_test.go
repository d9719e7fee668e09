package test

import (
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/brevet-dev/brevet/plugins/runner/runnertest"
)

// What brevet may take of a job's machine.
const (
	maxSize   = 8_000_000 // bytes of the stripped program
	maxMemory = 20 << 10  // KiB of resident memory while it masks
)

// releaseFlags build brevet as a release does: see the Makefile. It speaks with a
// broker once or twice: it needs no HTTP/2, nor the 150 kB that calls inlined in
// crypto/tls and math/big take. Functions begin at multiples of 16 bytes instead of
// 32, which saves 70 kB more, and makes no difference to the mask
// (go test -bench . -ldflags -funcalign=16 ./plugins/runner/mask).
var releaseFlags = []string{"-trimpath", "-tags=nethttpomithttp2", "-gcflags=crypto/tls=-l", "-gcflags=math/big=-l", "-ldflags=-s -w -funcalign=16"}

// buildBrevet returns the path of the program.
func buildBrevet(tb testing.TB) string {
	tb.Helper()
	path := filepath.Join(tb.TempDir(), "brevet")
	cmd := exec.Command("go", append(append([]string{"build"}, releaseFlags...), "-o", path, "./cmd/brevet")...)
	cmd.Dir, cmd.Env = "..", append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		tb.Fatalf("building brevet: %v\n%s", err, out)
	}
	return path
}

// What is measured here is what "make build" builds.
func TestReleaseFlags(t *testing.T) {
	make := exec.Command("make", "-n", "build")
	make.Dir = ".."
	out, err := make.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for _, flag := range strings.Fields(strings.ReplaceAll(strings.Join(releaseFlags, " "), "-ldflags=", "")) {
		if !strings.Contains(string(out), flag) {
			t.Errorf("the Makefile builds without %s", flag)
		}
	}
}

func TestSize(t *testing.T) {
	info, err := os.Stat(buildBrevet(t))
	if err != nil {
		t.Fatal(err)
	}
	if info.Size() > maxSize {
		t.Errorf("brevet has %d bytes, the most is %d", info.Size(), maxSize)
	}
}

// platforms are those that brevet is built for.
var platforms = []string{"linux/amd64", "linux/arm64", "darwin/amd64", "darwin/arm64", "windows/amd64"}

// TestPlatforms vets what brevet is made of on all of its platforms: that it
// compiles, and what depends on the size of types and the system.
func TestPlatforms(t *testing.T) {
	for _, platform := range platforms {
		t.Run(platform, func(t *testing.T) {
			system, arch, _ := strings.Cut(platform, "/")
			run := func(args ...string) string {
				cmd := exec.Command("go", args...)
				cmd.Dir, cmd.Env = "..", append(os.Environ(), "CGO_ENABLED=0", "GOOS="+system, "GOARCH="+arch)
				out, err := cmd.CombinedOutput()
				if err != nil {
					t.Errorf("go %s: %v\n%s", args[0], err, out)
				}
				return string(out)
			}
			const files = `{{range .GoFiles}}{{$.Dir}}/{{.}} {{end}}` // not the tests, which are for Unix
			for _, dir := range []string{"./plugins/runner", "./plugins/runner/agent", "./cmd/brevet"} {
				run(append([]string{"vet"}, strings.Fields(run("list", "-f", files, dir))...)...)
			}
		})
	}
}

// job returns brevet exec with args as a job would run it, with a broker of its
// own.
func job(tb testing.TB) func(args ...string) *exec.Cmd {
	tb.Helper()
	path := buildBrevet(tb)
	broker := runnertest.NewBroker(runnertest.Lease("deploy", "DEPLOY_TOKEN", "deploy/"+runnertest.Canary))
	tb.Cleanup(broker.Close)
	env := []string{
		"PATH=" + os.Getenv("PATH"), "BREVET_BROKER=" + broker.URL, "BREVET_CREDENTIALS=deploy", "BREVET_STATE_DIR=" + filepath.Join(tb.TempDir(), "state"),
		"BREVET_ID_TOKEN=" + runnertest.Token("gitlab"),
	}
	return func(args ...string) *exec.Cmd {
		cmd := exec.Command(path, append([]string{"exec", "--"}, args...)...)
		cmd.Env = env
		return cmd
	}
}

// TestMemory looks at brevet's memory while it masks much, with secrets in it and
// without.
func TestMemory(t *testing.T) {
	brevet := job(t)
	for name, script := range map[string]string{
		"lines":      `i=0; while [ $i -lt 20000 ]; do echo "line $i $DEPLOY_TOKEN and some more text to make it longer"; i=$((i+1)); done`,
		"no newline": `head -c 100000000 /dev/zero`,
		"binary":     `head -c 50000000 /dev/urandom`,
	} {
		cmd := brevet("sh", "-c", script)
		cmd.Stderr = os.Stderr
		out, err := cmd.StdoutPipe()
		if err == nil {
			err = cmd.Start()
		}
		if err == nil {
			_, err = io.Copy(io.Discard, out)
		}
		if err == nil {
			err = cmd.Wait()
		}
		if err != nil {
			t.Fatal(err)
		}
		used := cmd.ProcessState.SysUsage().(*syscall.Rusage).Maxrss // KiB on Linux
		t.Logf("%s: %d KiB", name, used)
		if used > maxMemory {
			t.Errorf("%s: brevet took %d KiB, the most is %d", name, used, maxMemory)
		}
	}
}
