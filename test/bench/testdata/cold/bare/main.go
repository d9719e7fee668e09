// Command bare is a function without brevet: it is ready to ask others over TLS, and
// serves.
package main

import (
	"crypto/tls"
	"fmt"
	"net/http"
	"os"

	"github.com/brevet-dev/brevet/test/bench/testdata/cold/served"
)

func main() {
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS12}, ForceAttemptHTTP2: true}}
	err := served.Run(func(r *http.Request) error {
		if r.Header.Get("X-Upstream") == "" {
			return nil
		}
		resp, err := client.Get(r.Header.Get("X-Upstream"))
		if err != nil {
			return err
		}
		return resp.Body.Close()
	})
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}
