// Package functions tests functions as platforms run them: programs of their own,
// with the platform's runtime and environment, which are started, stopped for a
// while, and ended.
package functions

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/brevet-dev/brevet/issuers/lab"
	"github.com/brevet-dev/brevet/test/cloud"
	"github.com/brevet-dev/brevet/test/servers"
)

const root = "../.."

// build compiles a program of this repository, as functions are deployed.
func build(t testing.TB, program string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "function")
	cmd := exec.Command("go", "build", "-buildvcs=false", "-o", file, "./"+program)
	cmd.Dir = root
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	return file
}

// A world is a broker that believes one platform's issuer, and the tokens of that.
type world struct {
	*cloud.Broker
	lab    *lab.Lab
	tokens atomic.Int64 // that were minted
}

// newWorld starts a broker for a preset, which grants what match says to for ttl.
func newWorld(t testing.TB, preset, audience, match, ttl string) *world {
	t.Helper()
	l, err := lab.Start(lab.Options{Preset: preset})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return &world{Broker: cloud.StartBroker(t, cloud.Issuer{Preset: preset, URL: l.URL, Audience: audience, Match: match, TTL: ttl}), lab: l}
}

func (w *world) mint(audience string) (string, error) {
	w.tokens.Add(1)
	return w.lab.Mint(audience, nil)
}

// exchanges returns how many there were.
func (w *world) exchanges() int { return len(w.Events("exchange", "granted")) }

// A process is one instance of a function.
type process struct {
	t    testing.TB
	url  string
	cmd  *exec.Cmd
	out  output
	done chan struct{} // closed when it has ended
}

// output is what a process writes.
type output struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.String()
}

// start runs file with an environment of pairs of name and value, and nothing else
// but the port that it must listen on, in the variable portName.
func start(t testing.TB, file, portName string, pairs ...string) *process {
	t.Helper()
	addr := servers.FreeAddr(t)
	p := &process{t: t, url: "http://" + addr, cmd: exec.Command(file), done: make(chan struct{})}
	_, port, _ := strings.Cut(addr, ":")
	p.cmd.Env = []string{portName + "=" + port}
	for pair := range slices.Chunk(pairs, 2) {
		p.cmd.Env = append(p.cmd.Env, pair[0]+"="+pair[1])
	}
	p.cmd.Stdout, p.cmd.Stderr = &p.out, &p.out
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(p.done)
		p.cmd.Wait() // its status is in ProcessState
	}()
	t.Cleanup(func() {
		p.signal(syscall.SIGKILL)
		<-p.done
		if t.Failed() {
			t.Logf("the function wrote:\n%s", p.out.String())
		}
	})
	return p
}

func (p *process) signal(sig os.Signal) {
	p.t.Helper()
	if err := p.cmd.Process.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
		p.t.Errorf("%v: %v", sig, err)
	}
}

// A lease is what the function says that it uses.
type lease struct {
	id   string
	ends time.Time
}

// try makes a request of the function.
func (p *process) try() (l lease, err error) {
	resp, err := http.Get(p.url)
	if err != nil {
		return l, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return l, err
	}
	id, ends, _ := strings.Cut(strings.TrimSpace(string(body)), " ")
	if resp.StatusCode != http.StatusOK {
		return l, fmt.Errorf("%s: %s", resp.Status, body)
	}
	at, err := time.Parse(time.RFC3339, ends)
	return lease{id, at}, err
}

// ask is try of a function that works.
func (p *process) ask() lease {
	p.t.Helper()
	l, err := p.try()
	if err != nil {
		p.t.Fatal(err)
	}
	if !l.ends.After(time.Now()) {
		p.t.Fatalf("the function uses a lease that ended at %v", l.ends)
	}
	return l
}

// first waits until the function has started, and answers.
func (p *process) first() (l lease) {
	p.t.Helper()
	servers.Eventually(p.t, "the function answers", func() (err error) {
		l, err = p.try()
		return err
	})
	return l
}

// freeze stops the process, as platforms do between requests, until end.
func (p *process) freeze(end time.Time) {
	p.t.Helper()
	p.signal(syscall.SIGSTOP)
	defer p.signal(syscall.SIGCONT)
	servers.Eventually(p.t, "the time has come", func() error {
		if left := time.Until(end); left > 0 {
			return fmt.Errorf("%v are left", left)
		}
		return nil
	})
}

// stop ends the process as platforms do, and checks that it went in peace.
func (p *process) stop() {
	p.t.Helper()
	p.signal(syscall.SIGTERM)
	select {
	case <-p.done:
	case <-time.After(10 * time.Second): // then platforms kill
		p.t.Fatal("it does not end")
	}
	if status := p.cmd.ProcessState.ExitCode(); status != 0 {
		p.t.Errorf("it ended with status %d", status)
	}
}

// gone checks that nothing of what is named lives.
func (w *world) gone(t testing.TB, leases ...lease) {
	t.Helper()
	for _, l := range leases {
		got, err := w.Lease.Lease(t.Context(), l.id)
		if err != nil || got.State == "active" && got.Expires.After(time.Now()) {
			t.Errorf("after the end of the function lease %s is %+v, %v", l.id, got, err)
		}
	}
}

// many makes n requests at once, and returns the leases that they were answered with.
func (p *process) many(n int) []string {
	p.t.Helper()
	var all sync.WaitGroup
	ids := make([]string, n)
	for i := range n {
		all.Go(func() {
			l, err := p.try()
			if err != nil {
				p.t.Error(err)
			}
			ids[i] = l.id
		})
	}
	all.Wait()
	slices.Sort(ids)
	return slices.Compact(ids)
}
