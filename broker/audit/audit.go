// Package audit writes what the broker decided to a file that cannot be
// changed unnoticed, and verifies such files.
//
// # Format
//
// A log is JSON lines. Each carries its number, the hash of the line before,
// and an event:
//
//	{"seq":7,"prev":"n4bQgYhMfWWaL-qgxVrQFaO_TxsrC4Is0V1sFbDwCgg","time":"2026-11-23T09:00:00Z","event":"exchange",…}
//
// prev is SHA-256 over the bytes of the previous line without its line break,
// in base64url without padding; it is empty in the first line of a log. So a
// line that is changed, removed, inserted or moved breaks the chain at the next
// one. seq and prev come first and in this form; the rest is a [broker.Event],
// or one of two events of the log itself:
//
//	log-open        the first line of a file, and of each process that goes on
//	                with one. why: "new", "restart", "rotated" (prev is in
//	                another file) or "recovered" (from a failure of the disk).
//	                unsealed: lines before it that no checkpoint covers.
//	                torn_bytes, torn: see Crashes.
//	log-checkpoint  checkpoint: a JWS over seq and prev of this line, and the
//	                time. It covers all lines before.
//
// Who holds the file could compute the whole chain anew. The checkpoints stop
// that: they are signed by the broker's epoch key every [SealLines] lines, or
// [SealAfter] after the first line that none covers, and when a file is closed.
// What is left: who holds the file can change the lines after the last
// checkpoint before the broker writes the next, and can cut the end off. The
// first shows while the broker runs, because it knows how the file should go
// on; for both, keep [Status] or [Report] elsewhere (metrics do) and compare.
//
// No line is longer than 64 KiB. In an event that would be, parts are cut, and
// "cut" lists them.
//
// # Durability
//
// Record returns once the line is on the disk. One goroutine takes all events
// that are waiting, writes them at once and syncs once; those who come
// meanwhile are in the next round. So the log keeps up with any number of
// callers on a slow disk, and delays nobody on a fast one.
//
// When the disk is full, the events that were waiting fail, what was written
// of them is taken back, and the next event tries again. After any other
// failure nothing more is recorded until [Log.Reopen] or a restart: what a disk
// holds after a failed sync, nobody knows.
//
// # Crashes
//
// A crash while a line is written leaves a part of it at the end of the file.
// Nobody was told that it was recorded. [Open] takes it off and puts it into
// its log-open line: torn_bytes is its length, and torn its first 32 KiB in
// base64. Lines that are whole but break the chain are no accident, and Open
// refuses the file.
//
// # Rotation
//
// Rename the file, then call [Log.Reopen] (on SIGHUP). The new file goes on
// with the numbers and the chain, and [Verify] takes several files one after
// the other. Copying and truncating the file (logrotate's copytruncate) breaks
// the log, and stops it.
package audit

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/brevet-dev/brevet/broker"
)

const (
	// SealLines is after how many lines a checkpoint is due: one signature (30
	// µs) and 2 KiB for each thousand.
	SealLines = 1000

	// SealAfter is for how long a line may go without a checkpoint.
	SealAfter = time.Minute

	// maxWaiting bounds the events that wait for the disk. More do only when it
	// hangs.
	maxWaiting = 4096

	// maxBatch bounds what is written at once, in bytes.
	maxBatch = 1 << 20
)

var (
	// ErrFailed says that an event was not recorded because of the disk. If the
	// disk is just full, the error also wraps the system's own (ENOSPC, EDQUOT
	// or EFBIG), and the next event may succeed.
	ErrFailed = errors.New("the audit log cannot be written")

	// ErrClosed says that an event came after [Log.Close].
	ErrClosed = errors.New("the audit log is closed")

	// ErrBroken says that a file is not what a Log wrote.
	ErrBroken = errors.New("the audit log is broken")
)

// Options are the options of [Open].
type Options struct {
	// Sign returns claims as a JWT with header typ, signed so that it can be
	// verified for as long as the log is kept. It must be quick, as events wait
	// for it, and not record events itself. If it fails, events are recorded
	// without a checkpoint, [Status] says so, and the next one is due at once.
	Sign func(ctx context.Context, typ string, claims any) (string, error)
}

// A Log is an open audit log. It implements [broker.AuditLog]. Its methods may
// be called by any goroutine.
type Log struct {
	path  string
	sign  func(ctx context.Context, typ string, claims any) (string, error)
	queue chan *record
	swap  chan chan error // Reopen's
	stop  chan struct{}   // closed by Close
	done  chan struct{}   // closed when the writer has ended
	once  sync.Once

	mu     sync.Mutex
	status Status

	// Of the writer.
	file    file
	size    int64 // durable bytes in file
	at      position
	syncs   uint64
	failed  error // set: nothing is written until Reopen
	sealErr error // of the last checkpoint
	buf     []byte
	sealDue *time.Timer
	result  error // of Close
}

// A record is an event on its way to the disk.
type record struct {
	body []byte
	done chan error // has room for the one result
}

// Open opens the log at path, or makes it, with mode 0600. The file is locked:
// Open fails if another process has it. It fails with [ErrBroken] if the end of
// the file is not what a Log wrote; then move the file away, and look at it.
func Open(path string, o Options) (*Log, error) {
	if o.Sign == nil {
		return nil, errors.New("opening the audit log: it needs to sign checkpoints")
	}
	l := &Log{
		path: path, sign: o.Sign, queue: make(chan *record, maxWaiting), swap: make(chan chan error),
		stop: make(chan struct{}), done: make(chan struct{}), sealDue: time.NewTimer(SealAfter),
	}
	if err := l.open(); err != nil {
		return nil, fmt.Errorf("opening the audit log: %w", err)
	}
	go l.run()
	return l, nil
}

// Record returns nil once e is on the disk. After an error e may be recorded or
// not, and what it announces must not happen. An e that was handed over is
// written even if ctx ends before: nobody can keep an event out of the log by
// going away.
func (l *Log) Record(ctx context.Context, e *broker.Event) error {
	body, err := encode(e)
	if err != nil {
		return err
	}
	select {
	case <-l.stop:
		return ErrClosed
	default:
	}
	r := &record{body, make(chan error, 1)}
	select {
	case l.queue <- r:
	default:
		return fmt.Errorf("%w: %d events wait for the disk", ErrFailed, maxWaiting)
	}
	select {
	case err := <-r.done:
		return err
	case <-ctx.Done():
		return fmt.Errorf("waiting for the audit log: %w", ctx.Err())
	case <-l.done:
		return r.result()
	}
}

// result returns how r ended after the writer has: that may have come before r,
// or after.
func (r *record) result() error {
	select {
	case err := <-r.done:
		return err
	default:
		return ErrClosed
	}
}

// Reopen opens the path again: after the file was renamed it makes a new one,
// which goes on with the chain; after a failure it tries again with the same. A
// new file must be empty. If it returns an error, the log goes on with the file
// it had.
func (l *Log) Reopen() error {
	reply := make(chan error, 1)
	select {
	case l.swap <- reply:
		return <-reply
	case <-l.done:
		return ErrClosed
	}
}

// Close records what is waiting, writes a checkpoint, and closes the file. The
// error says if either could not be done. A second Close returns the same.
func (l *Log) Close() error {
	l.once.Do(func() { close(l.stop) })
	<-l.done
	return l.result
}

// A Status is what metrics and readiness want to know of a [Log].
type Status struct {
	Seq      uint64 // of the last line on the disk
	Head     string // its hash: what the next line's prev will be
	Unsealed uint64 // lines after the last checkpoint
	Syncs    uint64 // of the file since Open; one may serve many events
	Err      error  // why the last event was not recorded; nil if it was
	SealErr  error  // why the last checkpoint could not be signed; nil if it was
}

// Status returns how things are now.
func (l *Log) Status() Status {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.status
}
