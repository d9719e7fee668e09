package main

import (
	"errors"
	"fmt"

	"github.com/brevet-dev/brevet/plugins/runner"
)

// Exit statuses, from sysexits.h (4.3BSD) where brevet itself fails, so that
// they seldom meet those of commands. "brevet help exit-codes" documents them.
const (
	exitFound       = 3 // scan
	exitUnsure      = 4 // scan
	exitUsage       = 64
	exitAltered     = 65
	exitUnavailable = 69
	exitInternal    = 70
	exitOutput      = 74
	exitProtocol    = 76
	exitDenied      = 77
	exitConfig      = 78
)

// A usageError tells of a wrong call of brevet.
type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }

// usagef makes a usageError.
func usagef(format string, args ...any) error { return usageError{fmt.Errorf(format, args...)} }

// An outputError tells that a result could not be printed.
type outputError struct{ error }

func (e outputError) Unwrap() error { return e.error }

// statusOf returns the exit status for an error of brevet's own.
func statusOf(err error) int {
	if err == nil {
		return 0
	}
	if _, ok := errors.AsType[usageError](err); ok {
		return exitUsage
	}
	if _, ok := errors.AsType[outputError](err); ok {
		return exitOutput
	}
	if i, ok := errors.AsType[runner.Interrupted](err); ok {
		return i.Status()
	}
	f, ok := errors.AsType[*runner.Failure](err)
	if !ok {
		return exitInternal
	}
	switch f.Kind {
	case runner.Misconfigured:
		return exitConfig
	case runner.Denied:
		return exitDenied
	case runner.Unavailable:
		return exitUnavailable
	case runner.Protocol:
		return exitProtocol
	case runner.Altered:
		return exitAltered
	}
	return exitInternal
}
