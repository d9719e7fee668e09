package lambda_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/brevet-dev/brevet/test/lambda"
	"github.com/brevet-dev/brevet/test/servers"
)

// build builds a program as functions are deployed: static.
func build(t *testing.T, program string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "bootstrap")
	cmd := exec.Command("go", "build", "-buildvcs=false", "-trimpath", "-ldflags", "-s -w", "-tags", "lambda.norpc", "-o", file, program)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	return file
}

// emulate starts AWS's emulator with a function, until the test ends.
func emulate(t *testing.T, f lambda.Function) (e *lambda.Emulator, api string, log *journal) {
	t.Helper()
	program, err := filepath.Abs("../../.tools/bin/aws-lambda-rie")
	if err != nil {
		t.Fatal(err)
	}
	log, api = &journal{}, servers.FreeAddr(t)
	f.Log = log
	if e, err = lambda.Emulate(program, servers.FreeAddr(t), api, f); err != nil {
		t.Fatalf("starting the emulator: %v; run: make tools", err)
	}
	t.Cleanup(func() {
		if err := e.Close(); err != nil {
			t.Errorf("Close = %v", err)
		}
		if t.Failed() {
			t.Logf("the emulator's log:\n%s", log)
		}
	})
	return e, api, log
}

// A script is a conversation with the APIs, in which the test plays the runtime and
// the extensions, and what they answered.
type script struct {
	t        *testing.T
	api      string
	ids      map[string]string // of extensions
	request  string            // id of the invocation
	answered []string
}

// varying is what is different each time.
var varying = regexp.MustCompile(`[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}|"deadlineMs":\d+|Root=1-[^"]*|arn:aws:lambda:[^"]*`)

func (s *script) note(what string, status int, answer []byte) {
	s.answered = append(s.answered, varying.ReplaceAllString(fmt.Sprintf("%s: %d %s", what, status, bytes.TrimSpace(answer)), "*"))
}

func (s *script) call(method, path, body string, header ...string) http.Header {
	s.t.Helper()
	status, h, answer, err := call(s.api, method, path, []byte(body), header...)
	if err != nil {
		s.t.Fatal(err)
	}
	s.note(strings.Join(append([]string{method, path, body}, header...), " "), status, answer)
	return h
}

// register registers an extension.
func (s *script) register(name, events string) {
	s.t.Helper()
	h := s.call("POST", extensionPath+"register", `{"events":[`+events+`]}`, "Lambda-Extension-Name", name)
	if id := h.Get("Lambda-Extension-Identifier"); id != "" {
		s.ids[name] = id
	}
}

// of is a request of an extension.
func (s *script) of(name, method, path string, header ...string) {
	s.t.Helper()
	s.call(method, extensionPath+path, "", append(header, "Lambda-Extension-Identifier", s.ids[name])...)
}

// A waiter waits for an event.
type waiter struct {
	name   string
	status int
	h      http.Header
	body   []byte
	err    error
}

// next asks for the next event, as the runtime, which is "", or as an extension.
func (s *script) next(name string) <-chan waiter {
	out := make(chan waiter, 1)
	path, header := runtimePath+"invocation/next", []string(nil)
	if name != "" {
		path, header = extensionPath+"event/next", []string{"Lambda-Extension-Identifier", s.ids[name]}
	}
	go func() {
		w := waiter{name: name}
		w.status, w.h, w.body, w.err = call(s.api, "GET", path, nil, header...)
		out <- w
	}()
	return out
}

// come notes an event.
func (s *script) come(from <-chan waiter) {
	s.t.Helper()
	w := <-from
	if w.err != nil {
		s.t.Fatal(w.err)
	}
	s.note("an event for "+w.name, w.status, w.body)
	for _, name := range slices.Sorted(maps.Keys(w.h)) {
		if strings.HasPrefix(name, "Lambda-") && name != "Lambda-Runtime-Trace-Id" { // the emulator has no tracer
			s.answered = append(s.answered, "with "+name)
		}
	}
	if id := w.h.Get("Lambda-Runtime-Aws-Request-Id"); id != "" {
		s.request = id
	}
}

// play is the script: all that goes wrong in each state, and an invocation.
func (s *script) play() {
	s.call("POST", extensionPath+"register", `{}`)
	s.call("POST", extensionPath+"register", `{`, "Lambda-Extension-Name", "watch")
	s.call("POST", extensionPath+"register", `{"configurationKeys":["x"]}`, "Lambda-Extension-Name", "watch")
	s.register("watch", `"RESTART"`)
	s.call("GET", extensionPath+"event/next", "")
	s.call("GET", extensionPath+"event/next", "", "Lambda-Extension-Identifier", "x")
	s.call("GET", extensionPath+"event/next", "", "Lambda-Extension-Identifier", "01234567-89ab-4def-8123-456789abcdef")
	s.call("GET", "/2018-06-01/runtime/nothing", "")
	s.register("watch", `"INVOKE"`)
	s.register("watch", `"INVOKE"`)
	s.register("inner", `"SHUTDOWN"`)
	s.register("inner", `"INVOKE"`)
	s.register("inner", `"INVOKE"`)
	s.register("silent", ``)
	s.of("watch", "POST", "init/error")
	s.call("POST", runtimePath+"invocation/x/response", `{}`)
	watch, inner := s.next("watch"), s.next("inner")
	s.next("silent")
	runtime := s.next("")
	for _, w := range []<-chan waiter{runtime, watch, inner} {
		s.come(w)
	}
	s.register("late", `"INVOKE"`)
	s.of("watch", "POST", "init/error", "Lambda-Extension-Function-Error-Type", "Extension.Late")
	s.call("POST", runtimePath+"init/error", `{}`)
	s.call("POST", runtimePath+"invocation/x/response", `{}`)
	s.call("POST", runtimePath+"invocation/x/error", `{}`)
	s.come(s.next("")) // the same again
	s.call("POST", runtimePath+"invocation/"+s.request+"/response", `"done"`)
	s.call("POST", runtimePath+"invocation/"+s.request+"/response", `"twice"`)
	s.call("POST", runtimePath+"invocation/"+s.request+"/error", `{}`)
	for _, name := range []string{"watch", "inner", ""} {
		s.next(name)
	}
}

// epilogue comes when the invocation has ended, and all wait.
func (s *script) epilogue() {
	s.of("watch", "GET", "event/next")
	s.of("inner", "GET", "event/next")
	s.of("watch", "POST", "exit/error")
	s.of("watch", "POST", "exit/error", "Lambda-Extension-Function-Error-Type", "Extension.Done")
	s.of("watch", "POST", "exit/error", "Lambda-Extension-Function-Error-Type", "Extension.Done")
	s.of("watch", "GET", "event/next")
}

// converse plays the script where an invocation goes on.
func converse(t *testing.T, api string, log *journal, invoke func(context.Context, []byte) ([]byte, error)) []string {
	t.Helper()
	s := &script{t: t, api: api, ids: map[string]string{}}
	var answer []byte
	var err error
	done := make(chan struct{})
	go func() {
		defer close(done)
		answer, err = invoke(t.Context(), []byte(`{"order":1}`))
	}()
	servers.Eventually(t, "the extension runs", func() error {
		if !strings.Contains(log.String(), "idle is here") {
			return errors.New("it does not yet")
		}
		return nil
	})
	s.play()
	<-done
	s.answered = append(s.answered, fmt.Sprintf("the caller: %s, %v", answer, err))
	s.epilogue()
	return s.answered
}

// TestSameAsTheEmulator has one conversation with both.
func TestSameAsTheEmulator(t *testing.T) {
	t.Parallel()
	f := lambda.Function{Command: []string{build(t, "./testdata/idle")}, Extensions: t.TempDir(), Timeout: 20 * time.Second}
	if err := os.Link(f.Command[0], filepath.Join(f.Extensions, "watch")); err != nil {
		t.Fatal(err)
	}
	f.Name, f.Handler = "orders", "main"
	emulator, api, log := emulate(t, f)
	theirs := converse(t, api, log, emulator.Invoke)
	s, log := open(t, f)
	ours := converse(t, s.API(), log, payloadOf(s))
	for i := range max(len(ours), len(theirs)) {
		our, their := "nothing", "nothing"
		if i < len(ours) {
			our = ours[i]
		}
		if i < len(theirs) {
			their = theirs[i]
		}
		if our != their {
			t.Errorf("%s\nthe emulator has\n%s", our, their)
		}
	}
	t.Logf("%d answers", len(ours))
}

// payloadOf invokes the function of s as callers see it.
func payloadOf(s *lambda.Sandbox) func(context.Context, []byte) ([]byte, error) {
	return func(ctx context.Context, payload []byte) ([]byte, error) {
		answer, err := s.Invoke(ctx, payload)
		if e, ok := errors.AsType[*lambda.Error](err); ok {
			return e.Payload, nil
		}
		if err != nil {
			return nil, err
		}
		return answer.Payload, nil
	}
}

// TestFailsAsTheEmulator: what the caller gets of a function that exits. Of one that
// does so in its init the emulator says nothing, other than Lambda.
func TestFailsAsTheEmulator(t *testing.T) {
	t.Parallel()
	f := lambda.Function{Command: []string{build(t, "./testdata/idle")}, Timeout: 20 * time.Second, Environment: map[string]string{"IDLE": "exit"}}
	emulator, _, _ := emulate(t, f)
	s, _ := open(t, f)
	var got [2]map[string]string
	for i, invoke := range []func(context.Context, []byte) ([]byte, error){payloadOf(s), emulator.Invoke} {
		payload, err := invoke(t.Context(), []byte(`1`))
		if err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(varying.ReplaceAll(payload, []byte("*")), &got[i]); err != nil {
			t.Fatalf("%s: %v", payload, err)
		}
	}
	if !maps.Equal(got[0], got[1]) {
		t.Errorf("the caller gets %v, of the emulator %v", got[0], got[1])
	}
}
