//go:build !linux

package main

import "syscall"

// harden keeps this process's memory from core files. That it ends with its
// parent is up to its standard input.
func harden() error { return syscall.Setrlimit(syscall.RLIMIT_CORE, &syscall.Rlimit{}) }

func duplicate(from, to int) error { return syscall.Dup2(from, to) }
