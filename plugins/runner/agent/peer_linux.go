package agent

import "syscall"

// peer returns the user at the other end of a socket, as of when it connected.
func peer(fd int) (uid int, err error) {
	cred, err := syscall.GetsockoptUcred(fd, syscall.SOL_SOCKET, syscall.SO_PEERCRED)
	if err != nil {
		return 0, err
	}
	return int(cred.Uid), nil
}

// Harden keeps other processes of the same user from reading this one's memory,
// and its memory out of core dumps, as ssh-agent does.
func Harden() error {
	if _, _, errno := syscall.RawSyscall(syscall.SYS_PRCTL, syscall.PR_SET_DUMPABLE, 0, 0); errno != 0 {
		return errno
	}
	return nil
}
