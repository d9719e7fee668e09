// Command brevetd-pkcs11 is brevetd's hand in an HSM: a process of its own for
// the shared library of the HSM's vendor, so that C code of unknown quality runs
// neither in brevetd's memory nor at the cost of brevetd being a static program.
// brevetd starts it, and speaks to it as package wire says. It has no options.
//
// It calls the library from one thread only, through dlopen without cgo. All
// memory that the library gets to see lies outside of Go's heap, locked into
// RAM, and is wiped after every request.
package main

import (
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
	"syscall"
)

// version is set by the linker: see the Makefile.
var version = "devel"

func main() {
	runtime.LockOSThread() // the one thread that calls the library
	os.Exit(run(os.Args[1:], os.Stdout, os.Stderr))
}

// Exit codes.
const (
	exitOK      = 0
	exitFailure = 1 // stderr says why
	exitUsage   = 2 // somebody called it by hand
)

func run(args []string, stdout, stderr io.Writer) int {
	if len(args) == 1 && (args[0] == "version" || args[0] == "--version") {
		fmt.Fprintln(stdout, version)
		return exitOK
	}
	if len(args) > 0 {
		fmt.Fprintln(stderr, "brevetd-pkcs11: error: this program is started by brevetd, and takes no arguments")
		fmt.Fprintln(stderr, `brevetd-pkcs11: hint: configure "root: pkcs11:" for brevetd, and leave this program beside it`)
		return exitUsage
	}
	if err := serveParent(); err != nil {
		fmt.Fprintf(stderr, "brevetd-pkcs11: error: %v\n", err)
		return exitFailure
	}
	return exitOK
}

func serveParent() error {
	// A signal to the whole group is the parent's affair: it may need a last
	// signature before it closes our standard input.
	signal.Ignore(syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	debug.SetTraceback("none") // registers and arguments may be of keys
	if err := harden(); err != nil {
		return fmt.Errorf("hardening this process: %w", err)
	}
	memory, err := newArena()
	if err != nil {
		return fmt.Errorf("reserving memory: %w", err)
	}
	h := &helper{memory: memory, quiet: silence}
	defer h.close()
	in, out, err := takeOver()
	if err != nil {
		return fmt.Errorf("taking over standard input and output: %w", err)
	}
	return h.serve(in, out)
}

// takeOver moves the pipes to and from the parent away from the descriptors 0
// and 1, where a library that prints would write between our frames.
func takeOver() (in, out *os.File, err error) {
	var fds [2]int
	for i := range fds {
		if fds[i], err = syscall.Dup(i); err != nil {
			return nil, nil, err
		}
		syscall.CloseOnExec(fds[i])
	}
	in, out = os.NewFile(uintptr(fds[0]), "from brevetd"), os.NewFile(uintptr(fds[1]), "to brevetd")
	return in, out, redirect(0, 1)
}

// silence leaves the library nothing to print to: what it says is not ours to
// judge, and may be a PIN. Vendors' libraries have log files of their own.
func silence() error { return redirect(0, 1, 2) }

// redirect lets descriptors lead to nowhere.
func redirect(fds ...int) error {
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer null.Close()
	for _, fd := range fds {
		if err := duplicate(int(null.Fd()), fd); err != nil {
			return err
		}
	}
	return nil
}
