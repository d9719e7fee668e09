package runner

import (
	"bytes"
	"errors"
	"os"
	"syscall"
	"unsafe"
)

// openPTY opens a new pair: ptmx_ptyname in XNU's tty_ptmx.c.
func openPTY() (master, slave *os.File, err error) {
	master, err = os.OpenFile("/dev/ptmx", os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		return nil, nil, err
	}
	var name [128]byte // as TIOCPTYGNAME says of its argument
	err = control(master, func(fd int) error {
		return errors.Join(
			ioctl(fd, syscall.TIOCPTYGRANT, nil), ioctl(fd, syscall.TIOCPTYUNLK, nil),
			ioctl(fd, syscall.TIOCPTYGNAME, unsafe.Pointer(&name[0])))
	})
	if err == nil {
		path, _, _ := bytes.Cut(name[:], []byte{0})
		slave, err = os.OpenFile(string(path), os.O_RDWR|syscall.O_NOCTTY, 0)
	}
	if err != nil {
		return nil, nil, errors.Join(err, master.Close())
	}
	return master, slave, nil
}

func ioctl(fd int, request uintptr, arg unsafe.Pointer) error {
	if _, _, errno := syscall.Syscall(syscall.SYS_IOCTL, uintptr(fd), request, uintptr(arg)); errno != 0 {
		return errno
	}
	return nil
}
