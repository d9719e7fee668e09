package extension

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/brevet-dev/brevet/plugins/exchange"
)

// The Extensions API.
//
// Source: https://docs.aws.amazon.com/lambda/latest/dg/runtimes-extensions-api.html
const (
	apiPath = "/2020-01-01/extension/"

	nameHeader  = "Lambda-Extension-Name"
	idHeader    = "Lambda-Extension-Identifier"
	errorHeader = "Lambda-Extension-Function-Error-Type"
)

// The events of the Extensions API that the extension registers for.
const (
	invoke   = "INVOKE"
	shutdown = "SHUTDOWN"
)

// maxEvent bounds an answer of the Extensions API in bytes: an event has a few ids.
const maxEvent = 1 << 20

// A runtime is Lambda, as one extension sees it.
type runtime struct {
	url    string
	client *http.Client // without a limit of time: an event may come in hours
	id     string       // what Lambda calls the extension; "" before it is registered
}

// newRuntime returns the Lambda at address, host:port. It is asked without any proxy,
// and cannot send the extension elsewhere.
func newRuntime(address string) *runtime {
	stay := func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return &runtime{url: "http://" + address + apiPath, client: &http.Client{Transport: &http.Transport{}, CheckRedirect: stay}}
}

// register makes the extension known by its name, that of its file. Lambda starts
// the function's own code when all extensions have done so.
func (r *runtime) register(ctx context.Context, name string, events []string) error {
	header, _, err := r.send(ctx, "registering the extension", http.MethodPost, "register", http.Header{nameHeader: {name}}, map[string][]string{"events": events})
	if err != nil {
		return err
	}
	if r.id = header.Get(idHeader); r.id == "" {
		return exchange.Failf(exchange.Protocol, "", "registering the extension: Lambda gave it no identifier")
	}
	return nil
}

// An event is what happens next to the sandbox.
type event struct {
	Type     string `json:"eventType"`  // invoke or shutdown
	Deadline int64  `json:"deadlineMs"` // milliseconds since 1970: when it is over
}

// next tells Lambda that all is done for the event before, and waits for another.
// Meanwhile the sandbox may be frozen.
func (r *runtime) next(ctx context.Context) (*event, error) {
	const what = "asking for the next event"
	_, body, err := r.send(ctx, what, http.MethodGet, "event/next", http.Header{idHeader: {r.id}}, nil)
	if err != nil {
		return nil, err
	}
	var e event
	if err := json.Unmarshal(body, &e); err != nil || e.Type != invoke && e.Type != shutdown { // for none else it registered
		return nil, exchange.Failf(exchange.Protocol, "", "%s: Lambda's answer is none", what)
	}
	return &e, nil
}

// sayTime bounds the telling of an error: Lambda is on this machine.
const sayTime = time.Second

// initError tells Lambda why the extension cannot start. kind is of the form
// Extension.Reason.
func (r *runtime) initError(ctx context.Context, kind, message string) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), sayTime)
	defer cancel()
	header := http.Header{idHeader: {r.id}, errorHeader: {kind}}
	_, _, err := r.send(ctx, "telling Lambda of the error", http.MethodPost, "init/error", header, map[string]any{"errorType": kind, "errorMessage": message, "stackTrace": []string{}})
	return err
}

// send makes one request with body in JSON, nil for none. what is for errors.
func (r *runtime) send(ctx context.Context, what, method, path string, header http.Header, body any) (http.Header, []byte, error) {
	req, err := r.request(ctx, method, path, body)
	if err != nil {
		return nil, nil, fmt.Errorf("%s: %w", what, err)
	}
	req.Header = header
	resp, err := r.client.Do(req)
	if err != nil {
		return nil, nil, exchange.Failf(exchange.Unavailable, "", "%s: %w", what, err)
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(resp.Body, maxEvent))
	if err != nil {
		return nil, nil, exchange.Failf(exchange.Unavailable, "", "%s: reading Lambda's answer: %w", what, err)
	}
	if resp.StatusCode/100 != 2 {
		return nil, nil, exchange.Failf(exchange.Protocol, "", "%s: Lambda answered %d %s", what, resp.StatusCode, http.StatusText(resp.StatusCode))
	}
	return resp.Header, answer, nil
}

func (r *runtime) request(ctx context.Context, method, path string, body any) (*http.Request, error) {
	if body == nil {
		return http.NewRequestWithContext(ctx, method, r.url+path, nil)
	}
	text, err := json.Marshal(body)
	if err != nil {
		return nil, err
	}
	return http.NewRequestWithContext(ctx, method, r.url+path, bytes.NewReader(text))
}
