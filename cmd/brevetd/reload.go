package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/brevet-dev/brevet/broker"
	"github.com/brevet-dev/brevet/broker/server"
	"github.com/brevet-dev/brevet/policies"
)

const (
	// lookEvery is how often the broker looks at the files of its policies. A
	// change is taken over at the second look that finds it as it is.
	lookEvery = 3 * time.Second

	// retryEvery is how soon files that could not be taken over are read again
	// although they look the same: it may have been the disk, or git.
	retryEvery = time.Minute
)

// A reloader keeps in force what the policies' files say. It has one loop;
// status may be asked for from elsewhere.
type reloader struct {
	live  *policies.Live
	look  func(context.Context) string // how the files look, cheaply: another string is another state
	load  func(context.Context) (*policies.Set, error)
	audit broker.AuditLog
	log   *slog.Logger

	seen string // how the files looked last
	read string // how they looked when they were read last

	mu    sync.Mutex
	state reloadState
}

// A reloadState is how the last reading went.
type reloadState struct {
	since    time.Time // the set in force is in force
	tried    time.Time // the files were read last
	err      error     // why what was read then is not in force; nil: it is
	failures uint64    // readings that ended in an error
}

// newReloader loads the policies that a start has in force.
func newReloader(ctx context.Context, c *config, log *slog.Logger) (*reloader, error) {
	r := &reloader{look: c.look, log: log}
	r.load = func(ctx context.Context) (*policies.Set, error) {
		return c.loadPoliciesAfter(ctx, r.live.Current().Origin().Commit)
	}
	r.read = r.look(ctx)
	r.seen = r.read
	set, err := c.loadPolicies(ctx)
	if err != nil {
		return nil, err
	}
	r.live = policies.NewLive(set)
	r.state = reloadState{since: time.Now(), tried: time.Now()}
	warn(log, set)
	return r, nil
}

// reload takes over policies that change, and at SIGHUP whatever is there, until
// ctx ends.
func (d *daemon) reload(ctx context.Context) {
	hangup := make(chan os.Signal, 1)
	signal.Notify(hangup, syscall.SIGHUP)
	defer signal.Stop(hangup)
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			d.reloader.tick(ctx)
		case <-hangup:
			if err := d.audit.Reopen(); err != nil {
				d.log.Error("reopening the audit log", "error", err)
			}
			d.reloader.now(ctx)
		}
	}
}

// tick looks at the files, and reads them if they are not what was read last
// and have come to rest.
func (r *reloader) tick(ctx context.Context) {
	looks := r.look(ctx)
	rests := looks == r.seen
	r.seen = looks
	if rests && (looks != r.read || r.due()) {
		r.reload(ctx, false)
	}
}

// now reads the files as they are.
func (r *reloader) now(ctx context.Context) {
	r.seen = r.look(ctx)
	r.reload(ctx, true)
}

// due reports whether it is time to try again what failed.
func (r *reloader) due() bool {
	s := r.status()
	return s.err != nil && time.Since(s.tried) >= retryEvery
}

func (r *reloader) status() reloadState {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.state
}

// reload swaps the policies for those on disk, or keeps the old ones and says
// why. What changes while it is read may be half of the old and half of the new
// set, a policy without its guardrails: a person who waits for an answer has it
// read again, and what does not come to rest is left for the next look.
func (r *reloader) reload(ctx context.Context, ordered bool) {
	set, err := r.load(ctx)
	after := r.look(ctx)
	for again := 0; ordered && after != r.seen && again < 2; again++ {
		r.seen = after
		set, err = r.load(ctx)
		after = r.look(ctx)
	}
	if after != r.seen {
		r.seen = after
		return
	}
	r.read = r.seen
	switch {
	case err != nil:
		r.refuse(ctx, err, ordered)
	case set.Digest() == r.live.Current().Digest() && !ordered:
		r.unchanged()
	default:
		r.take(ctx, set)
	}
}

// take puts set in force, once that is recorded.
func (r *reloader) take(ctx context.Context, set *policies.Set) {
	ev := &broker.Event{Time: time.Now(), Name: broker.EventReload, Outcome: broker.Granted, Policies: set.Digest()}
	if err := r.audit.Record(ctx, ev); err != nil {
		r.fail(fmt.Errorf("recording it: %w", err))
		r.log.Error("policies not reloaded: recording it", "error", err)
		return
	}
	r.live.Swap(set)
	r.mu.Lock()
	r.state.since, r.state.tried, r.state.err = time.Now(), time.Now(), nil
	r.mu.Unlock()
	log := r.log
	if signer := set.Origin().Signer; signer != "" {
		log = log.With("signer", signer)
	}
	log.Info("policies reloaded", "policies", set.Len(), "digest", set.Digest())
	warn(r.log, set)
}

// refuse keeps the old set in force. A reason is told once, however often it
// keeps coming back.
func (r *reloader) refuse(ctx context.Context, err error, ordered bool) {
	before := r.fail(err)
	if before != nil && before.Error() == err.Error() && !ordered {
		return
	}
	r.log.Error("policies not reloaded; the old ones stay in force", "error", err, "digest", r.live.Current().Digest())
	ev := &broker.Event{Time: time.Now(), Name: broker.EventReload, Outcome: broker.Refused, Cause: err.Error()}
	if err := r.audit.Record(ctx, ev); err != nil {
		r.log.Error("policies not reloaded: recording it", "error", err)
	}
}

// fail notes err and returns the error of the reading before.
func (r *reloader) fail(err error) (before error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	before = r.state.err
	r.state.tried, r.state.err = time.Now(), err
	r.state.failures++
	return before
}

// unchanged notes that the files are, or are again, what is in force.
func (r *reloader) unchanged() {
	r.mu.Lock()
	mended := r.state.err != nil
	r.state.tried, r.state.err = time.Now(), nil
	r.mu.Unlock()
	if mended {
		r.log.Info("the policies on disk are those in force again", "digest", r.live.Current().Digest())
	}
}

// warn logs what operators should know of the policies in force.
func warn(log *slog.Logger, set *policies.Set) {
	for _, w := range set.Warnings() {
		log.Warn("policy "+w.Policy+" is "+w.Message, "policy", w.Policy, "place", w.Place)
	}
}

// measure adds metrics of the policies.
func (r *reloader) measure(m *server.Metrics) {
	m.Gauge("brevet_policies", "Policies in force.", nil, func() float64 { return float64(r.live.Current().Len()) })
	m.Gauge("brevet_policies_unsafe", "Policies in force that lack pins and say unsafe.", nil, func() float64 { return float64(len(r.live.Current().Warnings())) })
	m.Info("brevet_policies_info", "The digest of the policies in force, and their commit if they come from git; always 1.", []string{"digest", "commit"}, func() []string {
		set := r.live.Current()
		return []string{set.Digest(), set.Origin().Commit}
	})
	m.Gauge("brevet_policies_up", "1 if the policies on disk could be read last time and are in force; 0: see the log.", nil, func() float64 { return truth(r.status().err == nil) })
	m.CounterFunc("brevet_policies_reload_failures_total", "Readings of the policies that ended in an error, once a minute while it lasts.", func() float64 { return float64(r.status().failures) })
}

// look tells states of the policies' files apart without reading them.
func (c *config) look(ctx context.Context) string {
	h := sha256.New()
	if c.Policies.Git != nil {
		head, err := c.checkout().Head(ctx)
		fmt.Fprintln(h, "commit", head, err)
		lookAt(h, c.path(c.Policies.Git.AllowedSigners))
	}
	lookAround(h, c.policyFolder())
	return hex.EncodeToString(h.Sum(nil))
}

// lookAround writes what is seen of the documents below dir. An error is seen
// as well.
func lookAround(w io.Writer, dir string) {
	root, err := filepath.EvalSymlinks(dir)
	if err != nil {
		fmt.Fprintln(w, err)
		return
	}
	fmt.Fprintf(w, "%q\n", root)
	err = filepath.WalkDir(root, func(file string, e fs.DirEntry, err error) error {
		switch ext := filepath.Ext(file); {
		case err != nil:
			return err
		case file != root && strings.HasPrefix(e.Name(), "."):
			if e.IsDir() {
				return fs.SkipDir
			}
		case ext == ".yaml" || ext == ".yml" || e.Type()&fs.ModeSymlink != 0:
			lookAt(w, file)
		}
		return nil
	})
	fmt.Fprintln(w, err)
}

// lookAt writes what is seen of one file: where links lead, too. In a volume of
// Kubernetes it is a link far from the file that changes.
func lookAt(w io.Writer, file string) {
	target, err := filepath.EvalSymlinks(file)
	if err != nil {
		fmt.Fprintln(w, err)
		return
	}
	info, err := os.Stat(target)
	if err != nil {
		fmt.Fprintln(w, err)
		return
	}
	fmt.Fprintf(w, "%q %q %d %s %d\n", file, target, info.Size(), info.Mode(), info.ModTime().UnixNano())
}
