//go:build unix && !linux

package runner

import "syscall"

// childAttr makes the child the leader of a new process group, if ownGroup.
func childAttr(ownGroup bool) *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: ownGroup}
}
