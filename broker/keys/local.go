package keys

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/brevet-dev/brevet/broker"
)

var (
	// ErrRolledBack says that what a broker knows of its fleet is older than
	// what its chip counted.
	ErrRolledBack = errors.New("the chip counted more versions of the ring than the state knows: the state was restored from a copy")

	// ErrNoState says that a broker has a root, and has lost what it knew of its
	// fleet.
	ErrNoState = errors.New("what this broker knew of its fleet is gone")
)

// A local is what one broker remembers of the ring, so that nobody who writes
// to Redis can give it an older one: the last edition it believed. Where the
// root has a counter, that counts the editions, so that an older local is
// noticed, too. The daemon and commands on the same machine share it.
type local struct {
	path    string // of the file; its folder exists
	counter Counter
}

// A remembered is the file of a local. The counter is written before the chip
// counts: so the file may be ahead by one, after a crash in between, and is
// never behind unless it was restored.
type remembered struct {
	Counter uint64 `json:"counter"`
	Ring    string `json:"ring"` // the token of an edition; "" before the first one
}

func newLocal(path string, root Root) *local {
	counter, _ := root.(Counter)
	return &local{path, counter}
}

// InitRing notes, for a root that was just made, that it knows no fleet yet. It
// returns [fs.ErrExist] if there is a note already.
func InitRing(ctx context.Context, path string, root Root) error {
	l := newLocal(path, root)
	n, err := l.count(ctx)
	if err != nil {
		return err
	}
	data, err := json.Marshal(remembered{Counter: n})
	if err != nil {
		return fmt.Errorf("encoding the state of the ring: %w", err)
	}
	if err := create(path, data); err != nil {
		return fmt.Errorf("writing the state of the ring: %w", err)
	}
	return nil
}

func (l *local) count(ctx context.Context) (uint64, error) {
	if l.counter == nil {
		return 0, nil
	}
	n, err := l.counter.Count(ctx)
	if err != nil {
		return 0, fmt.Errorf("reading the chip's counter: %w", err)
	}
	return n, nil
}

// lockEvery is how often a lock that another process has is tried.
const lockEvery = 50 * time.Millisecond

// lock keeps other processes out until release is called. It waits for one that
// has the lock, which may be stopped, until ctx ends.
func (l *local) lock(ctx context.Context) (release func(), err error) {
	f, err := os.OpenFile(l.path+".lock", os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("locking the state of the ring: %w", err)
	}
	if err := flock(ctx, f); err != nil {
		return nil, errors.Join(fmt.Errorf("locking the state of the ring: %w", err), f.Close())
	}
	return func() { f.Close() }, nil // closing unlocks
}

func flock(ctx context.Context, f *os.File) error {
	tick := time.NewTicker(lockEvery)
	defer tick.Stop()
	for {
		err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if !errors.Is(err, syscall.EWOULDBLOCK) {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w: another process of this broker has %s (%w)", broker.ErrUnavailable, f.Name(), ctx.Err())
		case <-tick.C:
		}
	}
}

// load returns the token of the last edition that was believed, or "". The
// caller holds the lock.
func (l *local) load(ctx context.Context) (string, error) {
	r, err := l.read()
	if err != nil {
		return "", err
	}
	n, err := l.count(ctx)
	switch {
	case err != nil:
		return "", err
	case n == r.Counter:
		return r.Ring, nil
	case n+1 == r.Counter: // it crashed between writing and counting
		_, err := l.counter.Increment(ctx)
		return r.Ring, err
	}
	return "", ErrRolledBack
}

// fits reports whether the chip has counted as often as r says, or will have.
func (l *local) fits(ctx context.Context, r *remembered) error {
	n, err := l.count(ctx)
	if err == nil && n != r.Counter && n+1 != r.Counter {
		err = ErrRolledBack
	}
	return err
}

func (l *local) read() (*remembered, error) {
	f, err := os.Open(l.path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: there is no %s", ErrNoState, l.path)
	}
	if err != nil {
		return nil, fmt.Errorf("reading the state of the ring: %w", err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, 2*maxRing))
	if err != nil {
		return nil, fmt.Errorf("reading the state of the ring: %w", err)
	}
	r := &remembered{}
	if err := json.Unmarshal(data, r); err != nil {
		return nil, fmt.Errorf("%w: %s is not JSON", ErrNoState, l.path)
	}
	return r, nil
}

// save remembers an edition in place of the last one. The caller holds the
// lock.
func (l *local) save(ctx context.Context, token string) error {
	n, err := l.count(ctx)
	if err != nil {
		return err
	}
	r := remembered{Ring: token}
	if l.counter != nil {
		r.Counter = n + 1
	}
	data, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("encoding the state of the ring: %w", err)
	}
	if err := replace(l.path, data); err != nil {
		return fmt.Errorf("writing the state of the ring: %w", err)
	}
	if l.counter != nil {
		if _, err := l.counter.Increment(ctx); err != nil {
			return fmt.Errorf("counting on by the chip: %w", err)
		}
	}
	return nil
}

// replace writes a file that is there afterwards as it was, or as it is to be,
// whatever happens.
func replace(path string, data []byte) error {
	temporary := path + ".new"
	if err := os.Remove(temporary); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := create(temporary, data); err != nil {
		return err
	}
	if err := os.Rename(temporary, path); err != nil {
		return err
	}
	return SyncDir(filepath.Dir(path))
}
