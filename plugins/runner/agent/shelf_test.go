package agent_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/brevet-dev/brevet/broker/api"
	"github.com/brevet-dev/brevet/plugins/runner"
	"github.com/brevet-dev/brevet/plugins/runner/agent"
	"github.com/brevet-dev/brevet/plugins/runner/runnertest"
	"github.com/brevet-dev/brevet/test/servers"
)

// A sidecar has an agent with one file, and a ready file.
type sidecar struct {
	*agent.Agent
	m            *maker
	token, ready string // paths
	err          error  // of the shelf, when done is closed
	done         chan struct{}
}

// besides runs f in a bubble, beside a sidecar.
func besides(t *testing.T, m *maker, f func(t *testing.T, s *sidecar)) {
	t.Helper()
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		s := &sidecar{m: m, token: filepath.Join(dir, "token"), ready: filepath.Join(dir, "ready"), done: make(chan struct{})}
		files, err := runner.OpenVolume([]runner.FileWish{{Variable: "TOKEN", Path: s.token}}, runner.Volume{Mode: 0o640, AnyDisk: true})
		if err != nil {
			t.Fatal(err)
		}
		s.Agent, err = agent.Listen(agent.Options{
			Credentials: []string{"deploy"}, Env: runner.Env{"TMPDIR=" + t.TempDir()}, Open: m.open, Wait: 30 * time.Second,
			Files: files, Ready: s.ready, Tell: func(error) {},
		})
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		ctx, cancel := context.WithCancel(t.Context())
		go func() { s.err = s.KeepShelf(ctx); close(s.done) }()
		synctest.Wait()
		f(t, s)
		cancel()
		<-s.done
		if _, err := os.Stat(s.ready); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("the ready file at the end: %v", err)
		}
		if err := errors.Join(s.GiveBack(context.Background()), files.Remove()); err != nil {
			t.Error(err)
		}
		for _, text := range s.Told() {
			if strings.Contains(text, runnertest.Canary) {
				t.Errorf("it told %s", text)
			}
		}
	})
}

// has fails the test unless the file has the nth value, and the ready file says so.
func (s *sidecar) has(t *testing.T, n int) {
	t.Helper()
	text, err := os.ReadFile(s.token)
	if want := fmt.Sprint(runnertest.Canary, n); err != nil || string(text) != want {
		t.Fatalf("the file has %q, %v; want %s", text, err, want)
	}
	if err := agent.CheckReady(s.ready, time.Now()); err != nil {
		t.Fatal(err)
	}
}

// unready fails the test unless it is told that the credentials are not there.
func (s *sidecar) unready(t *testing.T, want string) {
	t.Helper()
	err := agent.CheckReady(s.ready, time.Now())
	if !runner.IsKind(err, runner.Unavailable) || !strings.Contains(err.Error(), want) {
		t.Fatalf("ready: %v, want %s", err, want)
	}
}

// TestShelf looks once a second for two hours: what is in the file always has time
// left, whoever asks or does not.
func TestShelf(t *testing.T) {
	for _, ttl := range []time.Duration{10 * time.Second, 5 * time.Minute, time.Hour} {
		m := &maker{ttl: ttl, takes: time.Second}
		besides(t, m, func(t *testing.T, s *sidecar) {
			s.unready(t, "does not exist")
			time.Sleep(time.Second)
			for begin := time.Now(); time.Since(begin) < 2*time.Hour; time.Sleep(time.Second) {
				synctest.Wait()
				_, _, values := m.counts()
				s.has(t, values)
			}
			if exchanges, renewals, _ := m.counts(); exchanges != 1 || renewals < int(2*time.Hour/ttl) {
				t.Errorf("ttl %s: %d exchanges, %d renewals", ttl, exchanges, renewals)
			}
			if info, err := os.Stat(s.token); err != nil || info.Mode().Perm() != 0o640 {
				t.Errorf("%v, %v; want mode 0640", info.Mode(), err)
			}
		})
	}
}

// TestShelfLost has an operator revoke what is in the file: nothing says any more
// that it is there, and no other is asked for.
func TestShelfLost(t *testing.T) {
	m := &maker{ttl: time.Minute, renewal: func() error { return refused() }}
	besides(t, m, func(t *testing.T, s *sidecar) {
		s.has(t, 1)
		time.Sleep(time.Minute - time.Nanosecond)
		synctest.Wait()
		s.has(t, 1) // it could not be renewed, and lives until its end
		time.Sleep(time.Nanosecond)
		synctest.Wait()
		s.unready(t, "does not exist")
		time.Sleep(time.Hour)
		if exchanges, _, _ := m.counts(); exchanges != 1 {
			t.Errorf("%d exchanges for what was refused, want 1", exchanges)
		}
		if told := s.Told(); len(told) != 2 {
			t.Errorf("it told %q", told)
		}
	})
}

// TestShelfRevoked ends before its time what is in the file.
func TestShelfRevoked(t *testing.T) {
	m := &maker{ttl: time.Hour, revoked: true, renewal: func() error { return refused() }}
	besides(t, m, func(t *testing.T, s *sidecar) {
		s.has(t, 1)
		time.Sleep(40 * time.Minute)
		synctest.Wait()
		s.unready(t, "does not exist")
	})
}

// TestShelfWaits for a broker that is away at first, and does not flood it.
func TestShelfWaits(t *testing.T) {
	m := &maker{ttl: time.Hour, refuse: &runner.Failure{Kind: runner.Unavailable, Err: errors.New("nobody answers")}}
	besides(t, m, func(t *testing.T, s *sidecar) {
		time.Sleep(10 * time.Minute)
		s.unready(t, "does not exist")
		if exchanges, _, _ := m.counts(); exchanges < 10 || exchanges > 20 {
			t.Errorf("%d exchanges in ten minutes", exchanges)
		}
		if told := s.Told(); len(told) != 1 || !strings.Contains(told[0], "nobody answers") {
			t.Errorf("it told %q, want that once", told)
		}
		m.set(nil, nil)
		time.Sleep(time.Minute)
		synctest.Wait()
		s.has(t, 1)
	})
}

// TestShelfComesBack: a broker that was away for longer than a lease lives is asked
// again.
func TestShelfComesBack(t *testing.T) {
	away := &runner.Failure{Kind: runner.Unavailable, Err: errors.New("nobody answers")}
	m := &maker{ttl: time.Minute, renewal: func() error { return away }}
	besides(t, m, func(t *testing.T, s *sidecar) {
		s.has(t, 1)
		m.set(away, m.renewal)
		time.Sleep(10 * time.Minute)
		synctest.Wait()
		s.unready(t, "does not exist")
		m.set(nil, nil)
		time.Sleep(time.Minute)
		synctest.Wait()
		_, _, values := m.counts()
		s.has(t, values)
	})
}

// TestShelfRefused: what the broker refuses at once ends the agent.
func TestShelfRefused(t *testing.T) {
	m := &maker{ttl: time.Minute, refuse: refused()}
	besides(t, m, func(t *testing.T, s *sidecar) {
		<-s.done
		if !runner.IsKind(s.err, runner.Denied) {
			t.Errorf("the shelf ended with %v", s.err)
		}
	})
}

// TestShelfKeepsOld: what cannot be written is told, and the old values stay.
func TestShelfKeepsOld(t *testing.T) {
	m := &maker{ttl: time.Minute}
	besides(t, m, func(t *testing.T, s *sidecar) {
		s.has(t, 1)
		if err := os.Rename(filepath.Dir(s.token), filepath.Dir(s.token)+"-away"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(50 * time.Second)
		synctest.Wait()
		if told := s.Told(); len(told) == 0 || !strings.Contains(told[0], "writing the file of TOKEN") {
			t.Errorf("it told %q", told)
		}
		if err := os.Rename(filepath.Dir(s.token)+"-away", filepath.Dir(s.token)); err != nil {
			t.Fatal(err)
		}
		time.Sleep(40 * time.Second)
		synctest.Wait()
		_, _, values := m.counts()
		s.has(t, values)
	})
}

// TestStaleReady: what an agent that was killed has said is not true of the next; what
// is no such file is left alone.
func TestStaleReady(t *testing.T) {
	dir := t.TempDir()
	ready, link := filepath.Join(dir, "ready"), filepath.Join(dir, "link")
	if err := errors.Join(agent.WriteReady(ready, time.Now().Add(time.Hour)), os.Symlink(ready, link)); err != nil {
		t.Fatal(err)
	}
	if a, err := agent.Listen(agent.Options{Dir: filepath.Join(dir, "a"), Ready: link}); a != nil || !runner.IsKind(err, runner.Misconfigured) {
		t.Errorf("with a link: %v", err)
	}
	if err := agent.CheckReady(ready, time.Now()); err != nil {
		t.Error(err)
	}
	a, err := agent.Listen(agent.Options{Dir: filepath.Join(dir, "a"), Ready: ready})
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	if err := agent.CheckReady(ready, time.Now()); !runner.IsKind(err, runner.Unavailable) {
		t.Errorf("the agent is ready before it is served: %v", err)
	}
}

// A lastOne notes what is still there when its session ends.
type lastOne struct {
	session
	paths []string
	there []string
}

func (s *lastOne) End(ctx context.Context) error {
	for _, path := range s.paths {
		if _, err := os.Lstat(path); err == nil {
			s.there = append(s.there, path)
		}
	}
	return s.session.End(ctx)
}

// TestFilesGoFirst: nothing says that credentials are there, or has them, when they
// are revoked.
func TestFilesGoFirst(t *testing.T) {
	dir := t.TempDir()
	token, ready := filepath.Join(dir, "token"), filepath.Join(dir, "ready")
	files, err := runner.OpenVolume([]runner.FileWish{{Variable: "TOKEN", Path: token}}, runner.Volume{Mode: 0o600, AnyDisk: true})
	if err != nil {
		t.Fatal(err)
	}
	m := &maker{ttl: time.Hour}
	last := &lastOne{paths: []string{token, ready}}
	s := serve(t, agent.Options{Files: files, Ready: ready, Open: func(ctx context.Context, name string) (*api.Lease, agent.Session, error) {
		l, _, err := m.open(ctx, name)
		last.session = session{m, *l}
		return l, last, err
	}})
	servers.Eventually(t, "it is ready", func() error { return agent.CheckReady(ready, time.Now()) })
	if _, err := agent.Stop(t.Context(), s.socket); err != nil || m.ended != 1 || len(last.there) > 0 || s.Failed() != nil {
		t.Errorf("Stop = %v; %d sessions ended, and %v was there still", err, m.ended, last.there)
	}
}

// set changes what exchanges and renewals end in.
func (m *maker) set(refuse error, renewal func() error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.refuse, m.renewal = refuse, renewal
}

func (m *maker) counts() (exchanges, renewals, values int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.exchanges, m.renewals, m.values
}

func refused() error {
	return &runner.Failure{Kind: runner.Denied, Err: &api.Error{Code: api.CodeInvalidTarget}}
}
