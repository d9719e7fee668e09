package lambda_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/brevet-dev/brevet/test/lambda"
	"github.com/brevet-dev/brevet/test/servers"
)

// A journal is what a sandbox logs.
type journal struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (j *journal) Write(p []byte) (int, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.b.Write(p)
}

func (j *journal) String() string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.b.String()
}

// open makes a sandbox that ends with the test.
func open(t *testing.T, f lambda.Function) (*lambda.Sandbox, *journal) {
	t.Helper()
	log := &journal{}
	f.Log = log
	s, err := lambda.New(f)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Errorf("Close = %v", err)
		}
		if t.Failed() {
			t.Logf("the function's log:\n%s", log)
		}
	})
	return s, log
}

// grace lets processes end by themselves on a machine that is busy with other tests.
const grace = 20 * time.Second

// probe is a function with this program as its runtime, and as its extensions.
func probe(t *testing.T, extensions ...string) lambda.Function {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	f := lambda.Function{Command: []string{self}, Environment: map[string]string{}, Timeout: 20 * time.Second, Grace: grace}
	f.Environment["GORACE"] = "atexit_sleep_ms=0" // else a program with the race detector waits for a second
	if len(extensions) > 0 {
		f.Extensions = t.TempDir()
	}
	for _, name := range extensions {
		if err := os.Symlink(self, filepath.Join(f.Extensions, name)); err != nil {
			t.Fatal(err)
		}
	}
	return f
}

// invoke returns what a function answers.
func invoke(t *testing.T, s *lambda.Sandbox, payload string) string {
	t.Helper()
	answer, err := s.Invoke(t.Context(), []byte(payload))
	if err != nil {
		t.Fatalf("Invoke(%s) = %v", payload, err)
	}
	return string(answer.Payload)
}

// notes returns the lines that an extension has noted.
func notes(t *testing.T, s *lambda.Sandbox, name string) []string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(s.Tmp, name+".log"))
	if err != nil {
		t.Fatal(err)
	}
	return strings.Split(strings.TrimSpace(string(data)), "\n")
}

// state is the one-letter state of a process: proc_pid_stat(5).
func state(t *testing.T, pid int) string {
	t.Helper()
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		t.Fatal(err)
	}
	return strings.Fields(string(data[bytes.LastIndexByte(data, ')')+1:]))[0]
}

func wantFrozen(t *testing.T, s *lambda.Sandbox, names ...string) {
	t.Helper()
	for _, name := range names {
		servers.Eventually(t, name+" is stopped", func() error {
			if got := state(t, s.PID(name)); got != "T" {
				return errors.New("it is " + got)
			}
			return nil
		})
	}
}

// TestLife is the life of a sandbox in which all goes well.
func TestLife(t *testing.T) {
	s, log := open(t, probe(t, "watch", "deaf"))
	if err := s.Init(t.Context()); err != nil {
		t.Fatal(err)
	}
	wantFrozen(t, s, "runtime", "watch", "deaf")
	answer, err := s.Invoke(t.Context(), []byte(`{"order":1}`))
	if err != nil || string(answer.Payload) != `{"order":1}` || answer.Init != 0 || answer.Duration <= 0 {
		t.Fatalf("Invoke = %+v, %v", answer, err)
	}
	wantFrozen(t, s, "runtime", "watch", "deaf")
	invoke(t, s, `2`)
	pid := s.PID("runtime")
	s.Shutdown()
	if s.Inits() != 1 || s.PID("runtime") != 0 || pid == 0 {
		t.Errorf("%d inits; the runtime was %d and is %d", s.Inits(), pid, s.PID("runtime"))
	}
	if _, err := s.Invoke(t.Context(), nil); err == nil {
		t.Error("Invoke after Shutdown succeeded")
	}
	var events []map[string]any
	for _, line := range notes(t, s, "watch") {
		var e map[string]any
		if json.Unmarshal([]byte(line), &e) == nil {
			events = append(events, e)
		}
	}
	if len(events) != 3 || events[0]["eventType"] != "INVOKE" || events[0]["requestId"] != answer.RequestID || events[2]["eventType"] != "SHUTDOWN" || events[2]["shutdownReason"] != "spindown" {
		t.Errorf("the extension saw %v", events)
	}
	if deadline := time.UnixMilli(int64(events[0]["deadlineMs"].(float64))); time.Until(deadline) > 20*time.Second || time.Until(deadline) < 0 {
		t.Errorf("the invocation's deadline was %v", deadline)
	}
	exits := []string{}
	for _, e := range s.Exits() {
		exits = append(exits, fmt.Sprintln(e.Name, e.Status, e.Killed))
	}
	slices.Sort(exits)
	want := []string{"deaf signal: killed true\n", "runtime signal: terminated false\n", "watch exit status 0 false\n"}
	if !slices.Equal(exits, want) {
		t.Errorf("the processes ended as %q, want %q", exits, want)
	}
	for _, want := range []string{"the runtime is here", "EXTENSION Name: watch State: Ready Events: [INVOKE SHUTDOWN]", "START RequestId: " + answer.RequestID, "REPORT RequestId: "} {
		if !strings.Contains(log.String(), want) {
			t.Errorf("the log has no %q", want)
		}
	}
}

// TestNoExtension: a runtime without any extension is not told of its end.
func TestNoExtension(t *testing.T) {
	s, _ := open(t, probe(t))
	invoke(t, s, `1`)
	s.Shutdown()
	if want := []lambda.Exit{{Name: "runtime", Status: "signal: killed", Killed: true}}; !slices.Equal(s.Exits(), want) {
		t.Errorf("the processes ended as %v, want %v", s.Exits(), want)
	}
}
