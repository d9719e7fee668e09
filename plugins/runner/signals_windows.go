package runner

import (
	"os"
	"syscall"
)

const windowChanged = syscall.Signal(0) // there is no such signal

// catchable lists what Windows has: Ctrl-C and Ctrl-Break are SIGINT, and that
// the console is closed, the user leaves or the machine ends is SIGTERM.
func catchable() []os.Signal { return []os.Signal{syscall.SIGINT, syscall.SIGTERM} }

// isTyped reports false: the command has a group that no Ctrl-C comes to.
func isTyped(syscall.Signal) bool { return false }

// catchPipe does nothing: there is no signal for a closed pipe.
func catchPipe() {}

// hasTerminal reports false: a console is everybody's, and needs no group.
func hasTerminal() bool { return false }

// Die does nothing: no process dies of a signal.
func Die(syscall.Signal) {}
