// Probe is a function of AWS Lambda for the tests of the extension: it asks it for
// what it is told to.
package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
)

func main() {
	if err := serve(); err != nil {
		fmt.Fprintln(os.Stderr, "probe:", err)
		os.Exit(9)
	}
}

// A wish is what the function is invoked with: a request to the extension, or a file
// to read below the extension's folder.
type wish struct {
	Path   string
	Method string  // "": GET
	Host   string  // "": as the extension listens
	Header *string // Authorization; nil: the token
	File   string
	Init   bool // what the same gave while the function started
}

// A find is what the function answers.
type find struct {
	Status int
	Header http.Header
	Body   string
	Mode   string // of the file
	Error  string
}

func extensionDir() string { return filepath.Join(os.TempDir(), "brevet") }

// grant does what is wished.
func grant(w wish) find {
	if w.File != "" {
		return readFile(filepath.Join(extensionDir(), w.File))
	}
	token, err := os.ReadFile(filepath.Join(extensionDir(), "token"))
	if err != nil {
		return find{Error: err.Error()}
	}
	req, err := http.NewRequest(w.Method, "http://127.0.0.1:"+os.Getenv("BREVET_PORT")+w.Path, nil)
	if err != nil {
		return find{Error: err.Error()}
	}
	req.Host = w.Host
	req.Header.Set("Authorization", "Bearer "+string(token))
	if w.Header != nil {
		req.Header["Authorization"] = []string{*w.Header}
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return find{Error: err.Error()}
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return find{Error: err.Error()}
	}
	return find{Status: resp.StatusCode, Header: resp.Header, Body: string(body)}
}

func readFile(path string) find {
	info, err := os.Lstat(path)
	if err != nil {
		return find{Error: err.Error()}
	}
	body, err := os.ReadFile(path)
	if err != nil {
		return find{Error: err.Error()}
	}
	return find{Body: string(body), Mode: info.Mode().String()}
}

// serve is a runtime with the function in it.
func serve() error {
	var atInit find
	if path := os.Getenv("ASK_AT_INIT"); path != "" {
		atInit = grant(wish{Path: path})
	}
	api := "http://" + os.Getenv("AWS_LAMBDA_RUNTIME_API") + "/2018-06-01/runtime/invocation/"
	for {
		resp, err := http.Get(api + "next")
		if err != nil {
			return err
		}
		var w wish
		err = json.NewDecoder(resp.Body).Decode(&w)
		resp.Body.Close()
		if err != nil {
			return err
		}
		found := atInit
		if !w.Init {
			found = grant(w)
		}
		out, err := json.Marshal(found)
		if err != nil {
			return err
		}
		resp, err = http.Post(api+resp.Header.Get("Lambda-Runtime-Aws-Request-Id")+"/response", "application/json", bytes.NewReader(out))
		if err != nil {
			return err
		}
		resp.Body.Close()
	}
}
