// The same function with a credential.
package main

import (
	"context"
	"fmt"
	"net/http"
	"os"

	"github.com/brevet-dev/brevet/plugins/function"
)

func main() {
	credentials, err := function.New(context.Background(), os.Getenv("BREVET_BROKER"), "upstream")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	http.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		upstream, err := credentials.Get(function.WithRequest(r.Context(), r), "upstream")
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadGateway)
			return
		}
		token, err := upstream.Value("token")
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadGateway)
			return
		}
		req, err := http.NewRequestWithContext(r.Context(), http.MethodGet, os.Getenv("UPSTREAM"), nil)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadGateway)
			return
		}
		req.Header.Set("Authorization", "Bearer "+token.Reveal())
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadGateway)
			return
		}
		defer resp.Body.Close()
		fmt.Fprintln(w, resp.Status)
	})
	fmt.Fprintln(os.Stderr, http.ListenAndServe("127.0.0.1:8080", nil))
}
