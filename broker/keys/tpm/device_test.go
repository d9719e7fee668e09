package tpm_test

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"unsafe"

	"github.com/brevet-dev/brevet/broker/keys/tpm"
	"github.com/brevet-dev/brevet/test/servers"
)

// device makes s reachable by a character device: a terminal without any of
// what terminals do to bytes.
func device(t *testing.T, s *servers.TPM) string {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR, 0)
	must(t, err)
	var number, unlock uint32
	ioctl(t, master, syscall.TIOCGPTN, &number)
	ioctl(t, master, syscall.TIOCSPTLCK, &unlock)
	path := fmt.Sprintf("/dev/pts/%d", number)
	keep, err := os.OpenFile(path, os.O_RDWR, 0) // so that the master's end lives on
	must(t, err)
	stty := exec.Command("stty", "raw", "-echo")
	stty.Stdin = keep
	must(t, stty.Run())

	_, to, _ := strings.Cut(s.Device(), ":")
	server, err := net.Dial("unix", to)
	must(t, err)
	p := &proxy{before: func(int, []byte) verdict { return pass }, change: func(_, answer []byte) []byte { return answer }}
	done := make(chan struct{})
	go func() { defer close(done); p.relay(master, server) }()
	t.Cleanup(func() { keep.Close(); master.Close(); server.Close(); <-done })
	return path
}

func ioctl(t *testing.T, f *os.File, request uintptr, value *uint32) {
	t.Helper()
	raw, err := f.SyscallConn()
	must(t, err)
	var errno syscall.Errno
	must(t, raw.Control(func(fd uintptr) {
		_, _, errno = syscall.Syscall(syscall.SYS_IOCTL, fd, request, uintptr(unsafe.Pointer(value)))
	}))
	if errno != 0 {
		t.Fatal(errno)
	}
}

// TestDevice: what is in a TPM on a device may be another program's. It is not
// flushed to make room, and the TPM is not started: both are said.
func TestDevice(t *testing.T) {
	t.Parallel()
	s := servers.BareSWTPM(t)
	cfg := config(t, s)
	create(t, cfg).Close()
	for range 3 {
		send(t, s, createPrimary)
	}
	cfg.Device = device(t, s)
	_, err := tpm.Open(t.Context(), cfg)
	refused(t, "Open of a full TPM", err, tpm.ErrObjectMemory, "/dev/tpmrm0")
	s.Reset()
	_, err = tpm.Open(t.Context(), cfg)
	refused(t, "Open of a TPM that was not started", err, tpm.ErrNotStarted, "restart the machine")
}

func TestDeviceWorks(t *testing.T) {
	t.Parallel()
	s := servers.BareSWTPM(t)
	cfg := config(t, s)
	cfg.Device = device(t, s)
	root := create(t, cfg)
	must(t, sign(root))
	must(t, root.Close())
	must(t, open(t, cfg).Check(t.Context()))
}

func TestDeviceSessions(t *testing.T) {
	t.Parallel()
	s := servers.BareSWTPM(t)
	cfg := config(t, s)
	create(t, cfg).Close()
	for range 3 {
		send(t, s, startSession)
	}
	cfg.Device = device(t, s)
	_, err := tpm.Open(t.Context(), cfg)
	refused(t, "Open of a TPM full of sessions", err, tpm.ErrSessionMemory, "/dev/tpmrm0")
}
