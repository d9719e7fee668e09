// Command with is the same function with a credential, which each request needs. One
// for /again has the function exchange anew, as after a thaw: its connection is
// gone, and its credential has ended.
package main

import (
	"context"
	"crypto/tls"
	"fmt"
	"net/http"
	"os"
	"sync/atomic"

	"github.com/brevet-dev/brevet/plugins/exchange"
	"github.com/brevet-dev/brevet/plugins/function"
	"github.com/brevet-dev/brevet/test/bench/testdata/cold/served"
)

func main() {
	err := run(context.Background())
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}

func run(ctx context.Context) error {
	upstream := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS12}, ForceAttemptHTTP2: true}}
	client, err := exchange.NewHTTPClient(os.Getenv("BREVET_CA_FILE")) // as New would, to close its connections
	if err != nil {
		return err
	}
	start := func() (*function.Set, error) {
		return function.Options{HTTPClient: client}.New(ctx, os.Getenv("BREVET_BROKER"), "jwt")
	}
	first, err := start()
	if err != nil {
		return err
	}
	var set atomic.Pointer[function.Set]
	set.Store(first)
	return served.Run(func(r *http.Request) error {
		if r.URL.Path == "/again" {
			client.CloseIdleConnections()
			next, err := start()
			if err != nil {
				return err
			}
			set.Store(next)
		}
		return use(r, set.Load(), upstream)
	})
}

// use takes the credential, and asks others with it if there is somebody to ask.
func use(r *http.Request, set *function.Set, upstream *http.Client) error {
	credential, err := set.Get(r.Context(), "jwt")
	if err != nil {
		return err
	}
	token, err := credential.Value("token")
	if err != nil || r.Header.Get("X-Upstream") == "" {
		return err
	}
	req, err := http.NewRequestWithContext(r.Context(), http.MethodGet, r.Header.Get("X-Upstream"), nil)
	if err != nil {
		return err
	}
	req.Header.Set("Authorization", "Bearer "+token.Reveal())
	resp, err := upstream.Do(req)
	if err != nil {
		return err
	}
	return resp.Body.Close()
}
