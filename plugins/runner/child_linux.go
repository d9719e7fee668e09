package runner

import "syscall"

// childAttr puts the child into a process group, 0 for a new one, if inGroup.
// The kernel kills it when brevet dies: else a brevet that was killed would
// leave a process with credentials behind.
func childAttr(group int, inGroup bool) *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: inGroup, Pgid: group, Pdeathsig: syscall.SIGKILL}
}
