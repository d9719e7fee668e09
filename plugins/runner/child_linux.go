package runner

import (
	"bytes"
	"fmt"
	"os"
	"slices"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

// tieToBrevet makes the kernel kill the child when brevet dies: else a brevet
// that was killed would leave a process with credentials behind.
func tieToBrevet(attr *syscall.SysProcAttr) { attr.Pdeathsig = syscall.SIGKILL }

// Conceal keeps other processes of the user from reading this one's memory and
// environment, and the kernel from writing them to a core file. One that may
// trace all processes, as root outside of containers, is not kept.
func Conceal() error {
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return fmt.Errorf("hiding the memory from other processes: %w", err)
	}
	return nil
}

// knowsOrphans says that orphans tells of them.
const knowsOrphans = true

// adoptOrphans makes this process the parent of what its descendants leave
// behind, as init is otherwise.
func adoptOrphans() error {
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("becoming the parent of orphans: %w", err)
	}
	return nil
}

// orphans returns the children of this process but those in ours. A kernel
// without CONFIG_PROC_CHILDREN tells of none.
func orphans(ours []int) []int {
	threads, err := os.ReadDir("/proc/self/task") // each has children of its own
	if err != nil {
		return nil
	}
	var out []int
	for _, thread := range threads {
		text, err := os.ReadFile("/proc/self/task/" + thread.Name() + "/children")
		if err != nil {
			continue // a thread that has ended
		}
		for field := range bytes.FieldsSeq(text) {
			if pid, err := strconv.Atoi(string(field)); err == nil && !slices.Contains(ours, pid) {
				out = append(out, pid)
			}
		}
	}
	return out
}
