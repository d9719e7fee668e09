package audit

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"syscall"
	"time"
)

// A file is what a Log needs of an [os.File]; tests let it fail.
type file interface {
	io.Writer
	io.ReaderAt
	Stat() (os.FileInfo, error)
	Truncate(size int64) error
	Sync() error
	Close() error
}

// tailSize is how much of a file is read to go on with it: what was written at
// once before a crash, and a line.
const tailSize = maxBatch + 4*maxLine

// openFile opens or makes a file, and locks it as long as it is open. The lock
// is advisory (flock): it keeps brokers from each other, and nobody else.
func openFile(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("%s is not a file", path)
	}
	if err == nil && info.Size() == 0 {
		err = syncDir(filepath.Dir(path)) // so that a new file is still there after a crash
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

func lock(f *os.File) error {
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		return fmt.Errorf("locking %s, which another broker may have open: %w", f.Name(), err)
	}
	return nil
}

func syncDir(path string) error {
	dir, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

// open opens the file of a new Log, takes off what a crash left, and writes the
// log-open line.
func (l *Log) open() error {
	f, err := openFile(l.path)
	if err != nil {
		return err
	}
	err = lock(f)
	if err == nil {
		l.file = f
		err = l.resume()
	}
	if err != nil {
		return errors.Join(err, f.Close())
	}
	return nil
}

// resume goes on with what the file holds.
func (l *Log) resume() error {
	info, err := l.file.Stat()
	if err != nil {
		return err
	}
	torn, err := l.readTail(info.Size())
	switch {
	case err != nil:
		return err
	case l.at.seq > 0:
		return l.begin(whyRestart, info.Size())
	}
	first := l.at.prefix(nil)
	if n := min(len(torn), len(first)); !bytes.Equal(torn[:n], first[:n]) {
		return fmt.Errorf("%w: it holds something else", ErrBroken) // do not take that off
	}
	return l.begin(whyNew, info.Size())
}

// begin writes a log-open line after l.size, in place of what a file of size
// bytes holds from there on.
func (l *Log) begin(why string, size int64) error {
	n := note{
		Time: time.Now().UTC(), Event: eventOpen, Why: why,
		Unsealed: l.at.seq - l.at.sealed, TornBytes: size - l.size,
	}
	if n.TornBytes > 0 {
		n.Torn = make([]byte, min(n.TornBytes, maxTorn))
		if _, err := l.file.ReadAt(n.Torn, l.size); err != nil {
			return fmt.Errorf("reading a torn line: %w", err)
		}
		if err := l.file.Truncate(l.size); err != nil {
			return fmt.Errorf("taking off a torn line: %w", err)
		}
	}
	body, err := marshal(n)
	if err != nil {
		return err
	}
	next := l.at
	buf := next.append(nil, body)
	err = l.store(buf, next)
	l.report(err)
	l.sealDue.Reset(SealAfter)
	return err
}

// readTail moves the log to the last whole line of a file of size bytes, and
// returns what comes after it. The lines that it reads must be a chain.
func (l *Log) readTail(size int64) (torn []byte, err error) {
	start := max(0, size-tailSize)
	tail := make([]byte, size-start)
	if _, err := l.file.ReadAt(tail, start); err != nil {
		return nil, err
	}
	end := bytes.LastIndexByte(tail, '\n') + 1
	lines := tail[:end]
	if start > 0 {
		_, lines, _ = bytes.Cut(lines, []byte("\n")) // the first may not be whole
		if len(lines) == 0 {
			return nil, fmt.Errorf("%w: no line in its last %d bytes", ErrBroken, tailSize)
		}
	}
	v := verifier{part: start > 0}
	for raw := range bytes.Lines(lines) {
		if err := v.line(bytes.TrimSuffix(raw, []byte("\n"))); err != nil {
			return nil, err
		}
	}
	l.at, l.size = v.at, start+int64(end)
	return tail[end:], nil
}

// reopen is Reopen, in the writer.
func (l *Log) reopen() error {
	l.seal() // if that fails, the next checkpoint covers what this one would have
	f, err := openFile(l.path)
	if err != nil {
		return fmt.Errorf("reopening the audit log: %w", err)
	}
	same, err := sameFile(f, l.file)
	switch {
	case err != nil:
		err = errors.Join(err, f.Close())
	case same:
		err = errors.Join(f.Close(), l.recover())
	default:
		err = l.rotate(f)
	}
	if err != nil {
		return fmt.Errorf("reopening the audit log: %w", err)
	}
	return nil
}

func sameFile(a, b file) (bool, error) {
	infoA, errA := a.Stat()
	infoB, errB := b.Stat()
	if err := errors.Join(errA, errB); err != nil {
		return false, err
	}
	return os.SameFile(infoA, infoB), nil
}

// rotate goes on with f, a new file.
func (l *Log) rotate(f *os.File) error {
	before, size, failed := l.file, l.size, l.failed
	info, err := f.Stat()
	if err == nil && info.Size() > 0 {
		err = fmt.Errorf("%s is not empty; move it away", l.path)
	}
	if err == nil {
		err = lock(f)
	}
	if err == nil {
		l.file, l.size, l.failed = f, 0, nil
		err = l.begin(whyRotated, 0)
	}
	if err != nil {
		l.file, l.size, l.failed = before, size, failed
		l.report(nil)
		return errors.Join(err, f.Close())
	}
	return before.Close()
}

// recover goes on with the same file after a failure. Nothing beyond what was
// durable is believed, even if it can be read: after a failed sync it may be in
// memory only. Nobody was told that it was recorded.
func (l *Log) recover() error {
	if l.failed == nil {
		return nil
	}
	info, err := l.file.Stat()
	switch {
	case err != nil:
		return err
	case info.Size() < l.size:
		return fmt.Errorf("%w: %s has lost its end; move it away", ErrBroken, l.path)
	}
	failed := l.failed
	l.failed = nil
	if err := l.begin(whyRecovered, info.Size()); err != nil {
		l.failed = failed
		l.report(nil)
		return err
	}
	return nil
}
