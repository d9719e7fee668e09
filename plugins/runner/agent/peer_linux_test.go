package agent_test

import (
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/brevet-dev/brevet/plugins/runner/agent"
)

// TestAnotherUser opens folder and socket to all, and asks as another user. The
// agent itself must refuse. Only root can be another user; for others the test
// shows what mode the agent's files have.
func TestAnotherUser(t *testing.T) {
	s := serve(t, agent.Options{})
	if info, err := os.Stat(s.socket); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the socket has mode %v, %v", info.Mode(), err)
	}
	if info, err := os.Stat(filepath.Dir(s.socket)); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("its folder has mode %v, %v", info.Mode(), err)
	}
	if os.Getuid() != 0 {
		return
	}
	for dir := filepath.Dir(s.socket); dir != os.TempDir() && dir != "/"; dir = filepath.Dir(dir) {
		if err := os.Chmod(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(s.socket, 0o666); err != nil {
		t.Fatal(err)
	}
	if n, err := askAs(65534, s.socket); n > 0 || err != nil && !errors.Is(err, syscall.EPIPE) && !errors.Is(err, syscall.ECONNRESET) {
		t.Fatalf("another user got %d bytes, %v", n, err)
	}
	select {
	case err := <-s.told:
		if !strings.Contains(err.Error(), "another user (65534)") {
			t.Errorf("told %v", err)
		}
	case <-time.After(5 * time.Second):
		t.Error("the agent told nobody")
	}
	s.works(t)
}

// askAs asks for a lease as another user, and returns how long the answer is.
func askAs(uid int, path string) (n int, err error) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // for good: the thread ends with this goroutine
		if _, _, errno := syscall.RawSyscall(syscall.SYS_SETRESUID, ^uintptr(0), uintptr(uid), ^uintptr(0)); errno != 0 {
			err = errno
			return
		}
		var fd int
		if fd, err = syscall.Socket(syscall.AF_UNIX, syscall.SOCK_STREAM, 0); err != nil {
			return
		}
		defer syscall.Close(fd)
		if err = syscall.Connect(fd, &syscall.SockaddrUnix{Name: path}); err != nil {
			return
		}
		if _, err = syscall.SendmsgN(fd, []byte(`{"op": "lease", "credential": "deploy"}`+"\n"), nil, nil, syscall.MSG_NOSIGNAL); err == nil {
			n, err = syscall.Read(fd, make([]byte, 1<<20))
		}
	}()
	<-done
	return n, err
}
