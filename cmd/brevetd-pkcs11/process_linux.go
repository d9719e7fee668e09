package main

import "syscall"

// Linux: include/uapi/linux/prctl.h.
const (
	prSetPdeathsig  = 1
	prSetDumpable   = 4
	prSetNoNewPrivs = 38
)

// harden makes the kernel kill this process with its parent, keep its memory
// from core files and debuggers of the same user, and give no privileges to
// what the library may start. The calling thread must not end before the
// process.
func harden() error {
	for _, option := range [][2]uintptr{
		{prSetPdeathsig, uintptr(syscall.SIGKILL)},
		{prSetDumpable, 0},
		{prSetNoNewPrivs, 1},
	} {
		if _, _, errno := syscall.RawSyscall6(syscall.SYS_PRCTL, option[0], option[1], 0, 0, 0, 0); errno != 0 {
			return errno
		}
	}
	return syscall.Setrlimit(syscall.RLIMIT_CORE, &syscall.Rlimit{})
}

func duplicate(from, to int) error { return syscall.Dup3(from, to, 0) }
