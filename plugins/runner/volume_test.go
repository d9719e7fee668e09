package runner_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/brevet-dev/brevet/broker/api"
	"github.com/brevet-dev/brevet/plugins/runner"
	"github.com/brevet-dev/brevet/plugins/runner/runnertest"
)

// onVolume returns a wish for a file at path with what a lease sets as TOKEN.
func onVolume(path string) []runner.FileWish {
	return []runner.FileWish{{Variable: "TOKEN", Path: path}}
}

// TestVolumeWhole has a reader look all the time while the value changes: it sees
// one value or the other, with the mode that was asked for.
func TestVolumeWhole(t *testing.T) {
	path := filepath.Join(t.TempDir(), "token")
	files, err := runner.OpenVolume(onVolume(path), runner.Volume{Mode: 0o644, AnyDisk: true})
	if err != nil {
		t.Fatal(err)
	}
	short, long := canary, strings.Repeat(canary, 1000)
	put := func(value string) {
		if err := files.Put([]api.Lease{runnertest.Lease("deploy", "TOKEN", value)}); err != nil {
			t.Error(err)
		}
	}
	put(short)
	done := make(chan struct{})
	var reading sync.WaitGroup
	reading.Go(func() {
		for {
			select {
			case <-done:
				return
			default:
			}
			info, err := os.Stat(path)
			if err != nil || info.Mode().Perm() != 0o644 {
				t.Errorf("Stat = %v, %v", info, err)
			}
			// What is read may be wiped if it was replaced twice meanwhile.
			if text, err := os.ReadFile(path); err != nil || string(text) != short && string(text) != long && strings.Trim(string(text), "\x00") != "" {
				t.Errorf("read %d bytes, %v", len(text), err)
				return
			}
		}
	})
	for range 100 {
		put(long)
		put(short)
	}
	close(done)
	reading.Wait()
	if err := files.Remove(); err != nil {
		t.Error(err)
	}
	if left, err := os.ReadDir(filepath.Dir(path)); err != nil || len(left) > 0 {
		t.Errorf("left: %v, %v", left, err)
	}
}

// TestVolumeReplaces takes the place of what another process has left, and of
// nothing else.
func TestVolumeReplaces(t *testing.T) {
	dir := t.TempDir()
	left, folder, link := filepath.Join(dir, "left"), filepath.Join(dir, "folder"), filepath.Join(dir, "link")
	if err := errors.Join(os.WriteFile(left, []byte("old"), 0o400), os.Mkdir(folder, 0o700), os.Symlink(left, link)); err != nil {
		t.Fatal(err)
	}
	volume := runner.Volume{Mode: 0o600, AnyDisk: true}
	for _, path := range []string{folder, link, ofAnother(t, dir)} {
		if files, err := runner.OpenVolume(onVolume(path), volume); files != nil || !runner.IsKind(err, runner.Misconfigured) {
			t.Errorf("OpenVolume(%s) = %v, %v", path, files, err)
		}
	}
	files, err := runner.OpenVolume(onVolume(left), volume)
	if err != nil {
		t.Fatal(err)
	}
	if text, err := os.ReadFile(left); err != nil || string(text) != "old" {
		t.Errorf("before there is something else it has %q, %v", text, err)
	}
	if err := files.Put([]api.Lease{runnertest.Lease("deploy", "TOKEN", canary)}); err != nil {
		t.Fatal(err)
	}
	if text, err := os.ReadFile(left); err != nil || string(text) != canary {
		t.Errorf("it has %q, %v", text, err)
	}
	if err := files.Remove(); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(left); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("after Remove: %v", err)
	}
}

// ofAnother returns a file of another user's.
func ofAnother(t *testing.T, dir string) string {
	t.Helper()
	if os.Getuid() != 0 {
		return "/etc/passwd"
	}
	path := filepath.Join(dir, "another's")
	if err := errors.Join(os.WriteFile(path, nil, 0o600), os.Chown(path, 65534, 65534)); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestVolumeRefuses(t *testing.T) {
	path := filepath.Join(t.TempDir(), "token")
	for _, mode := range []fs.FileMode{0, 0o200, 0o640 | 0o020, 0o666, 0o700, 0o4600} {
		if files, err := runner.OpenVolume(onVolume(path), runner.Volume{Mode: mode, AnyDisk: true}); files != nil || err == nil {
			t.Errorf("mode %04o: %v", mode, err)
		}
	}
	if files, err := runner.OpenVolume(onVolume("/proc/token"), runner.Volume{Mode: 0o600}); files != nil || err == nil || !strings.Contains(err.Error(), "not a folder in memory") {
		t.Errorf("not in memory: %v", err)
	}
	twice := append(onVolume(path), runner.FileWish{Variable: "OTHER", Path: path})
	if files, err := runner.OpenVolume(twice, runner.Volume{Mode: 0o600, AnyDisk: true}); files != nil || err == nil || !strings.Contains(err.Error(), "two files have the path") {
		t.Errorf("two files at one path: %v", err)
	}
	files, err := runner.OpenVolume(onVolume(path), runner.Volume{Mode: 0o600, AnyDisk: true})
	if err != nil {
		t.Fatal(err)
	}
	both := []api.Lease{runnertest.Lease("a", "TOKEN", canary), runnertest.Lease("b", "TOKEN", canary)}
	if err := files.Put(both); err == nil || !strings.Contains(err.Error(), "credentials a and b both set TOKEN") {
		t.Errorf("of two credentials: %v", err)
	}
	if err := files.Remove(); err != nil {
		t.Error(err)
	}
}
