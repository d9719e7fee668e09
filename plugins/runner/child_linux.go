package runner

import "syscall"

// childAttr makes the child the leader of a new process group, if ownGroup, and
// has the kernel kill it when brevet dies: else a brevet that was killed would
// leave a process with credentials behind.
func childAttr(ownGroup bool) *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: ownGroup, Pdeathsig: syscall.SIGKILL}
}
