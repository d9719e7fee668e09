package lambda_test

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/brevet-dev/brevet/test/lambda"
	"github.com/brevet-dev/brevet/test/servers"
)

// TestFailures: what the caller of a function gets when it goes wrong, and whether
// that costs the sandbox its processes.
func TestFailures(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name, payload  string
		limit          time.Duration // 0: that of the probe
		wantType, want string
		reset          lambda.Reason // "": none
	}{
		{"the function's own error", `"fail"`, 0, "Function.Empty", "out of stock", ""},
		{"an exit", `"exit"`, 0, "Runtime.ExitError", "Error: Runtime exited with error: exit status 3", lambda.Failure},
		{"an exit without an error", `"exit 0"`, 0, "Runtime.ExitError", "Error: Runtime exited without providing a reason", lambda.Failure},
		{"a timeout", `"hang"`, 1500 * time.Millisecond, "Sandbox.Timedout", "Error: Task timed out after 1.50 seconds", lambda.Timeout},
		{"too large an answer", `"large"`, 0, "Function.ResponseSizeTooLarge", "Exceeded maximum allowed payload size (6291556 bytes).", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := probe(t, "watch")
			f.Timeout = cmp.Or(tt.limit, f.Timeout)
			s, _ := open(t, f)
			if err := os.WriteFile(filepath.Join(s.Tmp, "kept"), nil, 0o600); err != nil {
				t.Fatal(err)
			}
			wantError(t, s, tt.payload, tt.wantType, tt.want)
			wantShutdown(t, s, tt.reset)
			inits := 1
			if tt.reset != "" {
				inits = 2
			}
			if got := invoke(t, s, `2`); got != "2" || s.Inits() != inits {
				t.Errorf("the next invocation answered %s after %d inits, want %d", got, s.Inits(), inits)
			}
			if _, err := os.Stat(filepath.Join(s.Tmp, "kept")); err != nil {
				t.Error("/tmp was not kept")
			}
		})
	}
}

// wantError invokes a function that goes wrong.
func wantError(t *testing.T, s *lambda.Sandbox, payload, wantType, want string) {
	t.Helper()
	_, err := s.Invoke(t.Context(), []byte(payload))
	e, ok := errors.AsType[*lambda.Error](err)
	if !ok || e.Type != wantType || !strings.HasSuffix(e.Message, want) || e.RequestID == "" {
		t.Errorf("Invoke(%s) = %v, want %s: %s", payload, err, wantType, want)
	}
}

func TestExtensionCrashes(t *testing.T) {
	s, _ := open(t, probe(t, "crash"))
	wantError(t, s, `"hang"`, "Extension.Crash", "Error: exit status 5")
	if !slices.Contains(s.Exits(), lambda.Exit{Name: "runtime", Status: "signal: terminated"}) {
		t.Errorf("the processes ended as %v", s.Exits())
	}
}

// wantShutdown checks that the extension was told of a reset, or of none.
func wantShutdown(t *testing.T, s *lambda.Sandbox, why lambda.Reason) {
	t.Helper()
	lines := notes(t, s, "watch")
	var e struct{ EventType, ShutdownReason string }
	json.Unmarshal([]byte(lines[len(lines)-1]), &e)
	if got := lambda.Reason(e.ShutdownReason); got != why {
		t.Errorf("the extension was told of %q, want %q", got, why)
	}
}

// TestAnsweredBeforeItFailed: the caller has what the function answered.
func TestAnsweredBeforeItFailed(t *testing.T) {
	s, _ := open(t, probe(t))
	if got := invoke(t, s, `"exit after"`); got != `"done"` {
		t.Errorf("it answered %s", got)
	}
	if invoke(t, s, `1`); s.Inits() != 2 {
		t.Errorf("%d inits, want 2", s.Inits())
	}
}

// TestInitFailures: an init that does not succeed is tried again by the invocation,
// within the function's timeout.
func TestInitFailures(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name, how, extension string
		wantType, want       string
	}{
		{"an exit", "exit", "", "Runtime.ExitError", "Error: Runtime exited with error: exit status 3"},
		{"an error", "error", "", "Runtime.NoSuchHandler", "no handler"},
		{"a timeout", "hang", "", "Sandbox.Timedout", "Error: Task timed out after 0.40 seconds"},
		{"an extension under another name", "", "misnamed", "Sandbox.Timedout", "Error: Task timed out after 0.40 seconds"},
		{"an extension's error", "", "broken", "Extension.InitError", "Error: exit status 1"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := probe(t)
			if tt.extension != "" {
				f = probe(t, tt.extension)
			}
			f.Environment["PROBE_INIT"] = tt.how
			f.Timeout, f.Init = 20*time.Second, 10*time.Second
			if tt.wantType == "Sandbox.Timedout" {
				f.Timeout, f.Init = 400*time.Millisecond, 200*time.Millisecond
			}
			s, log := open(t, f)
			wantError(t, s, `1`, tt.wantType, tt.want)
			if s.Inits() != 2 || !strings.Contains(log.String(), "Phase: init") || !strings.Contains(log.String(), "Phase: invoke") {
				t.Errorf("%d inits, want 2", s.Inits())
			}
		})
	}
}

func TestSecondInitSucceeds(t *testing.T) {
	f := probe(t, "watch")
	f.Environment["PROBE_INIT"] = "once"
	s, _ := open(t, f)
	if got := invoke(t, s, `1`); got != "1" || s.Inits() != 2 {
		t.Errorf("it answered %s after %d inits", got, s.Inits())
	}
}

func TestInitTooLong(t *testing.T) {
	f := probe(t)
	f.Environment["PROBE_INIT"], f.Init = "hang", 100*time.Millisecond
	s, _ := open(t, f)
	if e, ok := errors.AsType[*lambda.Error](s.Init(t.Context())); !ok || e.Type != "Sandbox.Timedout" {
		t.Errorf("Init = %v", e)
	}
}

// TestStubbornExtension: what does not end by itself is ended, in time.
func TestStubbornExtension(t *testing.T) {
	t.Parallel()
	f := probe(t, "stubborn")
	f.Grace = 0
	s, _ := open(t, f)
	invoke(t, s, `1`)
	began := time.Now()
	s.Shutdown()
	if took := time.Since(began); took < 2*time.Second {
		t.Errorf("the shutdown took %v, want 2 s", took)
	}
	if !slices.Contains(s.Exits(), lambda.Exit{Name: "stubborn", Status: "signal: killed", Killed: true}) {
		t.Errorf("the processes ended as %v", s.Exits())
	}
}

// TestExtensionHoldsUp: an extension that never asks for its next event takes the
// function's whole time, and the caller has the answer.
func TestExtensionHoldsUp(t *testing.T) {
	t.Parallel()
	f := probe(t, "hang")
	f.Timeout, f.Grace = 1500*time.Millisecond, 0
	s, _ := open(t, f)
	if got := invoke(t, s, `1`); got != "1" || s.PID("runtime") != 0 {
		t.Errorf("it answered %s; the runtime is %d", got, s.PID("runtime"))
	}
}

func TestOneAtATime(t *testing.T) {
	s, log := open(t, probe(t))
	ctx, cancel := context.WithCancel(t.Context())
	first := make(chan error)
	go func() {
		_, err := s.Invoke(ctx, []byte(`"hang"`))
		first <- err
	}()
	servers.Eventually(t, "the first has begun", func() error {
		if !strings.Contains(log.String(), "START") {
			return errors.New("it has not")
		}
		return nil
	})
	if _, err := s.Invoke(t.Context(), []byte(`1`)); !errors.Is(err, lambda.ErrBusy) {
		t.Errorf("a second invocation = %v", err)
	}
	cancel()
	if err := <-first; !errors.Is(err, context.Canceled) {
		t.Errorf("the first invocation = %v", err)
	}
}

// TestEnvironment: which variables each process has.
func TestEnvironment(t *testing.T) {
	f := probe(t, "watch")
	f.Role = lambda.Session{AccessKeyID: "ASIACANARY", SecretAccessKey: "canary-key", SessionToken: "canary-token"}
	f.Environment["ORDERS"] = "http://127.0.0.1:1"
	t.Setenv("BREVET_NOT_FOR_FUNCTIONS", "1")
	s, _ := open(t, f)
	var runtime []string
	if err := json.Unmarshal([]byte(invoke(t, s, `"environ"`)), &runtime); err != nil {
		t.Fatal(err)
	}
	extension := notes(t, s, "watch")
	for _, both := range []string{"ORDERS=http://127.0.0.1:1", "AWS_REGION=eu-west-1", "AWS_LAMBDA_FUNCTION_NAME=shop", "AWS_ACCESS_KEY_ID=ASIACANARY", "AWS_SESSION_TOKEN=canary-token", "TMPDIR=" + s.Tmp} {
		if !slices.Contains(runtime, both) || !slices.Contains(extension, both) {
			t.Errorf("%s is not in both environments", both)
		}
	}
	for _, one := range []string{"_HANDLER=bootstrap", "LAMBDA_TASK_ROOT=" + filepath.Dir(f.Command[0]), "AWS_LAMBDA_LOG_GROUP_NAME=/aws/lambda/shop"} {
		if !slices.Contains(runtime, one) || slices.Contains(extension, one) {
			t.Errorf("%s is not the runtime's alone", one)
		}
	}
	for _, none := range append(runtime, extension...) {
		if strings.HasPrefix(none, "BREVET_") || strings.HasPrefix(none, "HOME=") {
			t.Errorf("%s is of the environment around", none)
		}
	}
	if got := invoke(t, s, `"dir"`); got != `"`+filepath.Dir(f.Command[0])+`"` {
		t.Errorf("the runtime is in %s", got)
	}
}

func TestReservedVariables(t *testing.T) {
	for name, value := range map[string]string{"AWS_REGION": "x", "_HANDLER": "x", "_MINE": "x", "X": "x", "1ST": "x", "A B": "x", "LONG": strings.Repeat("x", 4097)} {
		f := probe(t)
		f.Environment[name] = value
		if s, err := lambda.New(f); err == nil {
			s.Close()
			t.Errorf("New with the variable %s succeeded", name)
		}
	}
}
