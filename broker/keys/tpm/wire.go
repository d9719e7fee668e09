package tpm

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/google/go-tpm/tpm2"
)

const (
	// answerWithin is how long a TPM may take for one command. The slowest that
	// is sent with it, making an ECC primary key, takes a chip two seconds (the
	// kernel's TPM2_DURATION_LONG). It also covers waiting for another process
	// that holds a socket for holdFor.
	answerWithin = 5 * time.Second

	// primesWithin is the same for making an RSA key, which is a search.
	primesWithin = 60 * time.Second

	// maxAnswer is the largest answer of any TPM: go-tpm's own bound.
	maxAnswer = 4096

	header = 10 // bytes: tag, size, code (TPM 2.0 Library, part 1, section 18)
)

// A link is a connection to a TPM.
type link interface {
	io.ReadWriteCloser
	SetDeadline(time.Time) error
}

// A wire sends commands over a link, each with a deadline. After one without an
// answer it is of no use any more: a late answer would be taken for that of the
// next command.
type wire struct {
	link   link
	within time.Duration
	sent   *atomic.Uint64
	broken error // why; nil while it is whole
}

// Send implements go-tpm's transport.TPM. A TPM that is busy is asked again.
func (w *wire) Send(command []byte) ([]byte, error) {
	deadline := time.Now().Add(w.within)
	for pause := time.Millisecond; ; pause *= 2 {
		answer, err := w.exchange(command, deadline)
		if err != nil || !busy(answer) {
			return answer, err
		}
		if time.Now().Add(pause).After(deadline) {
			return nil, fmt.Errorf("%w (it says that it is busy, for %v)", ErrHung, w.within)
		}
		time.Sleep(pause)
	}
}

// busy reports whether the TPM asks for the same command again, later.
func busy(answer []byte) bool {
	switch tpm2.TPMRC(binary.BigEndian.Uint32(answer[6:])) {
	case tpm2.TPMRCRetry, tpm2.TPMRCYielded, tpm2.TPMRCTesting, tpm2.TPMRCNVRate:
		return true
	}
	return false
}

func (w *wire) exchange(command []byte, deadline time.Time) ([]byte, error) {
	if w.broken != nil {
		return nil, w.broken
	}
	w.sent.Add(1)
	answer, err := roundTrip(w.link, command, deadline)
	if err != nil {
		w.link.Close() // the error of the exchange is the one to tell
		w.broken = fmt.Errorf("%w (%v)", ErrVanished, err)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			w.broken = fmt.Errorf("%w (waited for %v)", ErrHung, w.within)
		}
		return nil, w.broken
	}
	return answer, nil
}

func roundTrip(l link, command []byte, deadline time.Time) ([]byte, error) {
	if err := l.SetDeadline(deadline); err != nil {
		return nil, err
	}
	if _, err := l.Write(command); err != nil {
		return nil, err
	}
	buf := make([]byte, maxAnswer)
	for n := 0; ; {
		more, err := l.Read(buf[n:])
		if err != nil {
			return nil, err
		}
		n += more
		if n < header {
			continue
		}
		switch size := int(binary.BigEndian.Uint32(buf[2:])); {
		case size == n:
			return buf[:n], nil
		case size < n, size > len(buf):
			return nil, errors.New("the answer has another length than it says")
		}
	}
}

// isSocket reports whether device is the socket of a software TPM. Such a TPM
// serves one connection at a time, and what is in it is ours while we have it.
func isSocket(device string) bool {
	return strings.HasPrefix(device, "unix:") || strings.HasPrefix(device, "tcp:")
}

func checkDevice(device string) error {
	if !isSocket(device) && !strings.HasPrefix(device, "/") {
		return fmt.Errorf("TPM device %q: want the path of a character device, such as /dev/tpmrm0, or unix:PATH or tcp:HOST:PORT", device)
	}
	return nil
}

// dial connects to the TPM at a device.
func dial(device string) (link, error) {
	l, err := dialAny(device)
	if err != nil {
		return nil, fmt.Errorf("%w (%v)", ErrVanished, err) // not as fs.ErrNotExist, which means that there is no root
	}
	return l, nil
}

func dialAny(device string) (link, error) {
	if !isSocket(device) {
		return openDevice(device)
	}
	ctx, cancel := context.WithTimeout(context.Background(), answerWithin)
	defer cancel()
	network, address, _ := strings.Cut(device, ":")
	return new(net.Dialer).DialContext(ctx, network, address)
}

func openDevice(path string) (link, error) {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if errors.Is(err, syscall.EBUSY) {
		return nil, fmt.Errorf("%w; use /dev/tpmrm0, which several programs can open", err)
	}
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err == nil && info.Mode()&fs.ModeCharDevice == 0 {
		err = fmt.Errorf("%s is not a character device", path)
	}
	if err == nil {
		err = f.SetDeadline(time.Time{}) // an error if the kernel cannot do it
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return deviceLink{f}, nil
}

// A deviceLink reads from a device as from a socket: the kernel's driver says
// "nothing" instead of waiting for the answer.
type deviceLink struct{ *os.File }

func (d deviceLink) Read(buf []byte) (n int, err error) {
	raw, err := d.SyscallConn()
	if err != nil {
		return 0, err
	}
	waiting := raw.Read(func(fd uintptr) bool {
		n, err = syscall.Read(int(fd), buf)
		return n > 0 || (err != nil && err != syscall.EAGAIN && err != syscall.EINTR)
	})
	if waiting != nil {
		return 0, waiting
	}
	return max(n, 0), err
}
