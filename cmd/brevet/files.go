package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/brevet-dev/brevet/plugins/runner"
)

// An inputError tells that an input could not be read: in a chain of readers that
// decrypt, another error is about what was read.
type inputError struct{ error }

func (e inputError) Unwrap() error { return e.error }

type readFunc func([]byte) (int, error)

func (f readFunc) Read(b []byte) (int, error) { return f(b) }

type writeFunc func([]byte) (int, error)

func (f writeFunc) Write(b []byte) (int, error) { return f(b) }

// unless returns what f returns, or, if ctx ends first, its cause. f may wait
// for somebody who never reads or writes; it then goes on until the program ends.
func unless(ctx context.Context, f func() (int, error)) (int, error) {
	type result struct {
		n   int
		err error
	}
	done := make(chan result, 1)
	go func() { n, err := f(); done <- result{n, err} }()
	select {
	case r := <-done:
		return r.n, r.err
	case <-ctx.Done():
		return 0, context.Cause(ctx)
	}
}

// input returns a reader of the file at path, or of stdin if that is "" or "-".
// The reader's errors are inputErrors, or what ended ctx. The caller closes it.
func (p *program) input(ctx context.Context, path string) (io.Reader, io.Closer, error) {
	f := p.stdin
	if path != "" && path != "-" {
		var err error
		if f, err = os.Open(path); err != nil {
			return nil, nil, misconfigured("", "opening the input: %w", err)
		}
	}
	read := func(b []byte) (int, error) {
		n, err := unless(ctx, func() (int, error) { return f.Read(b) })
		if err != nil && err != io.EOF && ctx.Err() == nil { // EOF is compared, not unwrapped, by readers
			err = inputError{fmt.Errorf("reading the input: %w", err)}
		}
		return n, err
	}
	return readFunc(read), f, nil
}

// misconfigured makes a Failure that the job's author can mend.
func misconfigured(hint, format string, args ...any) error {
	return &runner.Failure{Kind: runner.Misconfigured, Err: fmt.Errorf(format, args...), Hint: hint}
}

// An output is a file that appears under its name when it is complete, or
// stdout.
type output struct {
	io.Writer          // its errors are outputErrors, or what ended the context
	temporary *os.File // nil: stdout
	path      string
}

// output opens what path names: a file, stdout if it is "" or "-". text says
// that what will be written does no harm to a terminal.
func (p *program) output(ctx context.Context, path string, text bool) (*output, error) {
	o := &output{path: path}
	w := p.stdout
	switch {
	case path == "" && !text && isDevice(p.stdout):
		return nil, usagef("stdout is a terminal or another device; give -o FILE, or -o - to write there all the same")
	case path != "" && path != "-":
		var err error
		if o.temporary, err = createBeside(path); err != nil {
			return nil, err
		}
		w = o.temporary
	}
	o.Writer = writeFunc(func(b []byte) (int, error) {
		n, err := unless(ctx, func() (int, error) { return w.Write(b) })
		if err != nil && ctx.Err() == nil {
			err = outputError{fmt.Errorf("writing the output: %w", err)}
		}
		return n, err
	})
	return o, nil
}

// createBeside makes a temporary file, of mode 0600, in the folder of path. What
// is at path must be a file, if anything: to replace a device, or a link and not
// what it leads to, would be a surprise.
func createBeside(path string) (*os.File, error) {
	info, err := os.Lstat(path)
	switch {
	case err == nil && !info.Mode().IsRegular():
		return nil, misconfigured("to write to a device or a pipe use the shell's >", "%s is there and is no regular file", path)
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return nil, misconfigured("", "opening the output: %w", err)
	}
	f, err := os.CreateTemp(filepath.Dir(path), ".brevet-*")
	if err != nil {
		return nil, misconfigured("", "opening the output: %w", err)
	}
	return f, nil
}

// isDevice reports whether w is a terminal, or another character device than the
// one that is there to be written anything to.
func isDevice(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	info, err := f.Stat()
	if err != nil || info.Mode()&os.ModeCharDevice == 0 {
		return false
	}
	null, err := os.Stat(os.DevNull)
	return err != nil || !os.SameFile(info, null)
}

// commit gives the file its name, once it is on the disk. It replaces what had
// that name.
func (o *output) commit() error {
	if o.temporary == nil {
		return nil
	}
	err := errors.Join(o.temporary.Sync(), o.temporary.Close())
	if err == nil {
		err = os.Rename(o.temporary.Name(), o.path)
	}
	if err != nil {
		return outputError{fmt.Errorf("writing the output: %w", errors.Join(err, os.Remove(o.temporary.Name())))}
	}
	o.temporary = nil
	return nil
}

// discard removes what commit has not named.
func (o *output) discard() {
	if o.temporary == nil {
		return
	}
	o.temporary.Close()
	os.Remove(o.temporary.Name()) // nobody knows the name
}
