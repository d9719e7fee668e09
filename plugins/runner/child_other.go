//go:build unix && !linux

package runner

import "syscall"

// childAttr puts the child into a process group, 0 for a new one, if inGroup.
func childAttr(group int, inGroup bool) *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: inGroup, Pgid: group}
}
