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
