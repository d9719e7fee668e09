package lambda

import (
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"time"
)

// maxPayload is the most that an invocation takes or answers, in bytes: 6 MB and a
// little.
const maxPayload = 6<<20 + 100

func random(n int) []byte {
	b := make([]byte, n)
	rand.Read(b) // never fails
	return b
}

// An invocation is one call of the function.
type invocation struct {
	id, arn, trace string
	payload        []byte
	began          time.Time
	deadline       time.Time

	mu     sync.Mutex
	answer *Answer // nil: none yet
	error  *Error  // nil: the answer is that of a function that succeeded
}

func (s *Sandbox) newInvocation(payload []byte) *invocation {
	now := time.Now()
	return &invocation{id: newUUID(), arn: s.function.ARN(), trace: newTrace(now), payload: payload, began: now, deadline: now.Add(s.function.Timeout)}
}

func (in *invocation) answered() bool {
	answer, _ := in.outcome()
	return answer != nil
}

// outcome returns the function's answer, nil if there is none yet. The error says
// that it went wrong.
func (in *invocation) outcome() (*Answer, error) {
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.error != nil {
		return in.answer, in.error
	}
	return in.answer, nil
}

func (in *invocation) give(payload []byte, e *Error) {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.answer, in.error = &Answer{RequestID: in.id, Payload: payload, Duration: time.Since(in.began)}, e
}

// of returns e as the caller of an invocation sees it: in the emulator's words.
func (e *Error) of(id string) *Error {
	out := *e
	if out.RequestID = id; out.Payload == nil {
		out.Message = "RequestId: " + id + " " + e.Message
		out.Payload = encode(refusal{out.Message, out.Type})
	}
	return &out
}

// handler serves both APIs.
func (s *Sandbox) handler() http.Handler {
	mux := http.NewServeMux()
	serve := func(pattern string, h func(*generation, http.ResponseWriter, *http.Request)) {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			if g := s.current(); g != nil {
				h(g, w, r)
				return
			}
			write(w, http.StatusInternalServerError, refusal{"Internal Server Error", "InternalServerError"})
		})
	}
	const runtime, extension = "/2018-06-01/runtime/", "/2020-01-01/extension/"
	serve("GET "+runtime+"invocation/next", (*generation).invocationNext)
	serve("POST "+runtime+"invocation/{id}/response", (*generation).invocationResponse)
	serve("POST "+runtime+"invocation/{id}/error", (*generation).invocationError)
	serve("POST "+runtime+"init/error", (*generation).initError)
	serve("POST "+extension+"register", (*generation).register)
	serve("GET "+extension+"event/next", identified((*generation).eventNext))
	serve("POST "+extension+"init/error", identified(extensionError(initError, registered)))
	serve("POST "+extension+"exit/error", identified(extensionError(exitError, registered, ready, running)))
	return mux
}

// A refusal is an error of both APIs.
type refusal struct {
	Message string `json:"errorMessage"`
	Type    string `json:"errorType"`
}

func encode(v any) []byte {
	data, err := json.Marshal(v)
	if err != nil {
		panic(err) // of our own types
	}
	return data
}

func write(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	w.Write(encode(v)) // a client that went away is the test's own business
}

func forbid(w http.ResponseWriter, errorType, message string) {
	write(w, http.StatusForbidden, refusal{message, errorType})
}

func accept(w http.ResponseWriter) {
	write(w, http.StatusAccepted, map[string]string{"status": "OK"})
}

// transition moves the runtime from one of some states to another, or refuses. name
// is what the emulator calls it.
func (g *generation) transition(w http.ResponseWriter, to, name string, from ...string) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, state := range from {
		if g.runtime.state == state {
			g.runtime.state = to
			g.announceLocked()
			return true
		}
	}
	forbid(w, "InvalidStateTransition", "State transition from "+g.runtime.state+" to "+name+" failed for runtime. Error: State transition is not allowed")
	return false
}

// invocationNext gives the runtime its next invocation, when there is one. One that
// asks again before it has answered gets the same again.
func (g *generation) invocationNext(w http.ResponseWriter, r *http.Request) {
	if !g.transition(w, ready, ready, started, ready, responseSent, running) {
		return
	}
	var in *invocation
	err := g.await(r.Context(), func() bool {
		if in = g.invocation; in == nil || in.answered() || g.ending {
			return false
		}
		g.runtime.state = running
		return true
	})
	if err == nil {
		in.write(w)
	}
}

func (in *invocation) write(w http.ResponseWriter) {
	h := w.Header()
	h.Set("Lambda-Runtime-Aws-Request-Id", in.id)
	h.Set("Lambda-Runtime-Trace-Id", in.trace)
	h.Set("Lambda-Runtime-Invoked-Function-Arn", in.arn)
	h.Set("Lambda-Runtime-Deadline-Ms", strconv.FormatInt(in.deadline.UnixMilli(), 10))
	h.Set("Content-Type", "application/json")
	w.Write(in.payload) // likewise
}

// current returns the invocation that r is of, or refuses.
func (g *generation) current(w http.ResponseWriter, r *http.Request) *invocation {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.invocation == nil || g.invocation.id != r.PathValue("id") {
		write(w, http.StatusBadRequest, refusal{"Invalid request ID", "InvalidRequestID"})
		return nil
	}
	return g.invocation
}

// response is what the emulator calls a runtime's way to an answer.
const response = "InvocationResponse"

// conclude ends an invocation with what the runtime says.
func (g *generation) conclude(w http.ResponseWriter, name string, in *invocation, payload []byte, e *Error) bool {
	if !g.transition(w, responseSent, name, running) {
		return false
	}
	g.update(func() { in.give(payload, e) })
	return true
}

func (g *generation) invocationResponse(w http.ResponseWriter, r *http.Request) {
	in := g.current(w, r)
	if in == nil {
		return
	}
	mode := r.Header.Get("Lambda-Runtime-Function-Response-Mode")
	body, err := io.ReadAll(http.MaxBytesReader(nil, r.Body, maxPayload))
	_, large := errors.AsType[*http.MaxBytesError](err)
	switch {
	case mode != "" && mode != "streaming":
		g.refuse(w, in, http.StatusBadRequest, refusal{"Invalid function response mode", "InvalidFunctionResponseMode"}, "Runtime.InvalidResponseModeHeader")
	case large:
		text := "Exceeded maximum allowed payload size (" + strconv.Itoa(maxPayload) + " bytes)."
		g.refuse(w, in, http.StatusRequestEntityTooLarge, refusal{text, "RequestEntityTooLarge"}, "Function.ResponseSizeTooLarge")
	case err != nil:
		g.refuse(w, in, http.StatusBadRequest, refusal{"HTTP request detected as truncated", "TruncatedHTTPRequest"}, "Runtime.TruncatedResponse")
	default:
		if g.conclude(w, response, in, body, trailed(r, in)) {
			accept(w)
		}
	}
}

// refuse answers the runtime with one error, and the caller with another.
func (g *generation) refuse(w http.ResponseWriter, in *invocation, status int, why refusal, errorType string) {
	e := (&Error{Type: errorType, Message: "Error: " + why.Message}).of(in.id)
	if g.conclude(w, response, in, e.Payload, e) {
		write(w, status, why)
	}
}

// trailed returns the error of a function that went wrong while its answer was
// under way: it is in trailers.
func trailed(r *http.Request, in *invocation) *Error {
	errorType := r.Trailer.Get("Lambda-Runtime-Function-Error-Type")
	if errorType == "" {
		return nil
	}
	body, err := base64.StdEncoding.DecodeString(r.Trailer.Get("Lambda-Runtime-Function-Error-Body"))
	if err != nil {
		return &Error{Type: errorType, Message: "its body is not base64", RequestID: in.id}
	}
	return functionError(errorType, body, in.id)
}

func (g *generation) invocationError(w http.ResponseWriter, r *http.Request) {
	in := g.current(w, r)
	if in == nil {
		return
	}
	body, err := io.ReadAll(http.MaxBytesReader(nil, r.Body, maxPayload))
	if err != nil {
		body = nil
	}
	if g.conclude(w, "InvocationErrorResponse", in, body, functionError(r.Header.Get("Lambda-Runtime-Function-Error-Type"), body, in.id)) {
		accept(w)
	}
}

// initError keeps why a runtime does not start. It is an error of the function when
// its process has ended.
func (g *generation) initError(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(http.MaxBytesReader(nil, r.Body, maxPayload))
	if err != nil {
		body = nil
	}
	if !g.transition(w, initError, initError, started) {
		return
	}
	g.update(func() { g.runtime.error = functionError(r.Header.Get("Lambda-Runtime-Function-Error-Type"), body, "") })
	accept(w)
}

// errorTypes is the form of those that Lambda keeps.
var errorTypes = regexp.MustCompile(`(Runtime|Function)\.[A-Z][a-zA-Z]+`)

// functionError reads what a runtime says of an error. Where the header says nothing
// of it the body's type is the better one for a test.
func functionError(errorType string, body []byte, id string) *Error {
	var in refusal
	if json.Unmarshal(body, &in) != nil {
		in = refusal{Message: string(body)}
	}
	switch {
	case errorTypes.MatchString(errorType):
	case errorType == "" && in.Type != "":
		errorType = in.Type
	case strings.HasPrefix(errorType, "Function."):
		errorType = "Function.Unknown"
	default:
		errorType = "Runtime.Unknown"
	}
	return &Error{Type: errorType, Message: in.Message, RequestID: id, Payload: body}
}
