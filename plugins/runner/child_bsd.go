//go:build unix && !linux

package runner

import "syscall"

// tieToBrevet does nothing: only Linux can. The guard is left.
func tieToBrevet(*syscall.SysProcAttr) {}

// Conceal does nothing: only Linux lets a process ask for it.
func Conceal() error { return nil }

const knowsOrphans = false

// adoptOrphans does nothing: what the command leaves behind becomes init's.
func adoptOrphans() error { return nil }

// orphans returns none: they are init's.
func orphans([]int) []int { return nil }
