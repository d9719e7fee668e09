package lambda_test

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestMain makes this program the runtime and the extensions of the sandboxes that
// its tests start: simple ones, that do what they are told.
func TestMain(m *testing.M) {
	if os.Getenv("AWS_LAMBDA_RUNTIME_API") == "" {
		flag.Set("test.parallel", "8") // most of their time they wait
		os.Exit(m.Run())
	}
	if os.Getenv("_HANDLER") != "" {
		runtimeProbe(os.Getenv("PROBE_INIT"))
	}
	extensionProbe(filepath.Base(os.Args[0]))
}

func fail(err error) {
	fmt.Fprintln(os.Stderr, "probe:", err)
	os.Exit(9)
}

// call sends one request to the APIs.
func call(api, method, path string, body []byte, header ...string) (status int, h http.Header, answer []byte, err error) {
	req, err := http.NewRequest(method, "http://"+api+path, bytes.NewReader(body))
	if err != nil {
		return 0, nil, nil, err
	}
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, nil, nil, err
	}
	defer resp.Body.Close()
	answer, err = io.ReadAll(resp.Body)
	return resp.StatusCode, resp.Header, answer, err
}

// mustCall is call in a probe, where all that is refused ends it.
func mustCall(method, path string, body []byte, header ...string) (http.Header, []byte) {
	status, h, answer, err := call(os.Getenv("AWS_LAMBDA_RUNTIME_API"), method, path, body, header...)
	if err != nil {
		fail(err)
	}
	if status >= 300 {
		fail(fmt.Errorf("%s %s: %d %s", method, path, status, answer))
	}
	return h, answer
}

const (
	runtimePath   = "/2018-06-01/runtime/"
	extensionPath = "/2020-01-01/extension/"
)

// runtimeProbe is a runtime; how tells what it does instead of its init.
func runtimeProbe(how string) {
	fmt.Println("the runtime is here")
	switch how {
	case "exit":
		os.Exit(3)
	case "error":
		mustCall("POST", runtimePath+"init/error", []byte(`{"errorMessage":"no handler","errorType":"Runtime.NoSuchHandler"}`), "Lambda-Runtime-Function-Error-Type", "Runtime.NoSuchHandler")
		os.Exit(1)
	case "hang":
		select {}
	case "once": // fails the first time
		path := filepath.Join(os.TempDir(), "once")
		if _, err := os.Stat(path); err != nil {
			os.WriteFile(path, nil, 0o600)
			os.Exit(3)
		}
	}
	for {
		h, payload := mustCall("GET", runtimePath+"invocation/next", nil)
		id := h.Get("Lambda-Runtime-Aws-Request-Id")
		respond := func(v any) {
			data, err := json.Marshal(v)
			if err != nil {
				fail(err)
			}
			mustCall("POST", runtimePath+"invocation/"+id+"/response", data)
		}
		switch string(payload) {
		case `"environ"`:
			respond(os.Environ())
		case `"headers"`:
			respond(h)
		case `"dir"`:
			dir, _ := os.Getwd()
			respond(dir)
		case `"fail"`:
			mustCall("POST", runtimePath+"invocation/"+id+"/error", []byte(`{"errorMessage":"out of stock","errorType":"Empty"}`), "Lambda-Runtime-Function-Error-Type", "Function.Empty")
		case `"exit"`:
			os.Exit(3)
		case `"exit 0"`:
			os.Exit(0)
		case `"exit after"`:
			respond("done")
			os.Exit(4)
		case `"hang"`:
			select {}
		case `"large"`:
			status, _, answer, err := call(os.Getenv("AWS_LAMBDA_RUNTIME_API"), "POST", runtimePath+"invocation/"+id+"/response", make([]byte, 7<<20))
			if err == nil && status != http.StatusRequestEntityTooLarge {
				fail(fmt.Errorf("a large answer: %d %s", status, answer))
			}
		default:
			respond(json.RawMessage(payload))
		}
	}
}

// extensionProbe is an extension that does as its name says.
func extensionProbe(name string) {
	registered := map[string]string{"watch": `"INVOKE","SHUTDOWN"`, "stubborn": `"INVOKE","SHUTDOWN"`, "crash": `"INVOKE"`, "hang": `"INVOKE"`, "broken": `"SHUTDOWN"`}
	as := name
	if name == "misnamed" {
		as = "another"
	}
	h, _ := mustCall("POST", extensionPath+"register", []byte(`{"events":[`+registered[name]+`]}`), "Lambda-Extension-Name", as)
	id := []string{"Lambda-Extension-Identifier", h.Get("Lambda-Extension-Identifier")}
	note(name, strings.Join(os.Environ(), "\n"))
	if name == "broken" {
		mustCall("POST", extensionPath+"init/error", []byte(`{}`), append(id, "Lambda-Extension-Function-Error-Type", "Extension.ConfigInvalid")...)
		os.Exit(1)
	}
	for {
		_, body := mustCall("GET", extensionPath+"event/next", nil, id...)
		note(name, string(body))
		var e struct{ EventType string }
		if err := json.Unmarshal(body, &e); err != nil {
			fail(err)
		}
		switch {
		case name == "stubborn" && e.EventType == "SHUTDOWN", name == "hang":
			select {}
		case name == "crash":
			os.Exit(5)
		case e.EventType == "SHUTDOWN":
			os.Exit(0)
		}
	}
}

// note appends a line to a file in the sandbox's /tmp that the test reads.
func note(name, text string) {
	f, err := os.OpenFile(filepath.Join(os.TempDir(), name+".log"), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		fail(err)
	}
	fmt.Fprintln(f, text)
	f.Close()
}
